package streaming

import (
	"net"
	"sync"
)

// connections is a listener that knows its open connections. Those that carry a shell or a forwarded port
// have been taken out of the HTTP server's hands, and it would leave them open when it stops.
type connections struct {
	net.Listener

	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// Accept waits for the next connection.
func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &connection{Conn: conn, of: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[tracked] = struct{}{}
	return tracked, nil
}

func (c *connections) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.(*connection).Conn.Close()
	}
	clear(c.open)
}

type connection struct {
	net.Conn
	of *connections
}

// Close closes the connection and forgets it.
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
