package netlab

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"time"
)

// Server answers every line that it is sent with its own name and the sender's address, over TCP and
// UDP alike.
type Server struct {
	tcp net.Listener
	udp net.PacketConn
}

// Serve listens on addr (host:port) in the namespace.
func (n *Namespace) Serve(addr, name string) (*Server, error) {
	s := &Server{}
	err := n.Do(func() (err error) {
		if s.tcp, err = net.Listen("tcp", addr); err != nil {
			return err
		}
		s.udp, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("serving on %s: %w", addr, err)
	}
	go s.acceptTCP(name)
	go s.answerUDP(name)
	return s, nil
}

func (s *Server) acceptTCP(name string) {
	for {
		conn, err := s.tcp.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				fmt.Fprintf(conn, "%s %s\n", name, host(conn.RemoteAddr()))
			}
		}()
	}
}

func (s *Server) answerUDP(name string) {
	buffer := make([]byte, 512)
	for {
		_, from, err := s.udp.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = s.udp.WriteTo([]byte(name+" "+host(from)+"\n"), from)
	}
}

func host(addr net.Addr) string {
	address, _, _ := net.SplitHostPort(addr.String())
	return address
}

// Close ends the server.
func (s *Server) Close() error {
	_ = s.udp.Close()
	return s.tcp.Close()
}

// Dial connects from the namespace within timeout.
func (n *Namespace) Dial(network, addr string, timeout time.Duration) (conn net.Conn, err error) {
	err = n.Do(func() error {
		dialer := net.Dialer{Timeout: timeout}
		conn, err = dialer.Dial(network, addr)
		return err
	})
	return conn, err
}

// patience bounds an answer. A first packet that was lost is sent again after one second, three and seven.
const patience = 15 * time.Second

// Ask opens a connection from the namespace, sends a line and returns who answered and what source
// address it saw.
func (n *Namespace) Ask(network, addr string) (name, source string, err error) {
	conn, err := n.Dial(network, addr, patience)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	return AskOn(conn)
}

// AskOn is Ask on a connection that is open already.
func AskOn(conn net.Conn) (name, source string, err error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", "", err
	}
	if _, err := fmt.Fprintln(conn, "who"); err != nil {
		return "", "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", "", err
	}
	name, source, _ = strings.Cut(strings.TrimSpace(answer), " ")
	return name, source, nil
}
