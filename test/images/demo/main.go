package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var err error
	switch role := os.Getenv("DEMO_ROLE"); role {
	case "", "app":
		err = serveApp(ctx)
	case "proxy":
		err = serveProxy(ctx)
	case "shipper":
		err = ship(ctx)
	default:
		err = fmt.Errorf("unknown DEMO_ROLE %q: want app, proxy or shipper", role)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// app is the state that its endpoints show and change.
type app struct {
	requests atomic.Int64
	unready  atomic.Bool
	sick     atomic.Bool
}

func serveApp(ctx context.Context) error {
	a := &app{}
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { answer(w, !a.sick.Load()) })
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { answer(w, !a.unready.Load()) })
	mux.HandleFunc("/startup", func(w http.ResponseWriter, _ *http.Request) { answer(w, true) })
	mux.HandleFunc("/metrics", a.metrics)
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) { reply(w, environment()) })
	mux.HandleFunc("/ids", func(w http.ResponseWriter, _ *http.Request) { reply(w, identity()) })
	mux.HandleFunc("/file", readFile)
	mux.HandleFunc("/fetch", fetch)
	mux.HandleFunc("/dial", dial)
	mux.HandleFunc("POST /ready/{ready}", func(_ http.ResponseWriter, r *http.Request) { a.unready.Store(r.PathValue("ready") == "false") })
	mux.HandleFunc("POST /health/{healthy}", func(_ http.ResponseWriter, r *http.Request) { a.sick.Store(r.PathValue("healthy") == "false") })
	mux.HandleFunc("POST /exit/{code}", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		os.Exit(code)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		hostname, _ := os.Hostname()
		reply(w, map[string]string{"pod": hostname, "image": os.Getenv("DEMO_IMAGE"), "client": r.RemoteAddr})
	})

	listen := os.Getenv("DEMO_LISTEN")
	if listen == "" {
		listen = ":8080"
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", listen)
	if err != nil {
		return err
	}
	go answerPackets(packets)
	log.Printf("%s serves on %s", os.Getenv("DEMO_IMAGE"), listener.Addr())
	appendLog(fmt.Sprintf("%s started", os.Getenv("DEMO_IMAGE")))

	requests := &requests{conns: map[net.Conn]struct{}{}}
	server := &http.Server{Handler: a.count(mux), ReadHeaderTimeout: 10 * time.Second, ConnState: requests.follow}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	log.Print("stopping: no new connections, finishing the open requests")
	shutdown, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// Shutdown has the server drop a request that it reads thereafter, although the connection was accepted before.
	_ = listener.Close()
	server.SetKeepAlivesEnabled(false)
	requests.wait(shutdown)
	return server.Shutdown(shutdown)
}

// requests are the connections on which a request is on its way or under way.
type requests struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func (r *requests) follow(conn net.Conn, state http.ConnState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if state == http.StateNew || state == http.StateActive {
		r.conns[conn] = struct{}{}
	} else {
		delete(r.conns, conn)
	}
}

// wait returns when there are none, or ctx ends.
func (r *requests) wait(ctx context.Context) {
	for ticker := time.NewTicker(5 * time.Millisecond); ; {
		r.mu.Lock()
		open := len(r.conns)
		r.mu.Unlock()
		if open == 0 {
			ticker.Stop()
			return
		}
		select {
		case <-ctx.Done():
			ticker.Stop()
			return
		case <-ticker.C:
		}
	}
}

// answerPackets answers every datagram as "/" answers a request.
func answerPackets(packets net.PacketConn) {
	buffer := make([]byte, 512)
	hostname, _ := os.Hostname()
	for {
		_, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return
		}
		text, _ := json.Marshal(map[string]string{"pod": hostname, "image": os.Getenv("DEMO_IMAGE"), "client": from.String()})
		_, _ = packets.WriteTo(text, from)
	}
}

func (a *app) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.requests.Add(1)
		if r.URL.Path == "/" {
			appendLog("request from " + r.RemoteAddr)
		}
		next.ServeHTTP(w, r)
	})
}

func (a *app) metrics(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "# HELP demo_http_requests_total Requests served.\n# TYPE demo_http_requests_total counter\ndemo_http_requests_total %d\n", a.requests.Load())
}

// appendLog writes a line where a log-shipping neighbour reads, if the pod has such a volume.
func appendLog(line string) {
	file, err := os.OpenFile("/app/logs/app.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer file.Close()
	fmt.Fprintln(file, line)
}

func readFile(w http.ResponseWriter, r *http.Request) {
	data, err := os.ReadFile(r.URL.Query().Get("path"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	_, _ = w.Write(data)
}

// fetch gets ?url=, or the URL that the environment variable ?env= holds, so that one service calls another.
func fetch(w http.ResponseWriter, r *http.Request) {
	target := r.URL.Query().Get("url")
	if name := r.URL.Query().Get("env"); name != "" {
		target = os.Getenv(name)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(target)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(response.Body, 1<<20))
}

// dial connects to ?addr= and answers with the first line that the other side says.
func dial(w http.ResponseWriter, r *http.Request) {
	connection, err := net.DialTimeout("tcp", r.URL.Query().Get("addr"), 5*time.Second)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(5 * time.Second))
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	_, _ = io.WriteString(w, line)
}

func environment() map[string]string {
	env := map[string]string{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	return env
}

func identity() map[string]any {
	groups, _ := os.Getgroups()
	return map[string]any{"uid": os.Getuid(), "gid": os.Getgid(), "groups": groups}
}

func answer(w http.ResponseWriter, ok bool) {
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, strconv.FormatBool(ok)+"\n")
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

// serveProxy greets every connection with the address that it stands for.
func serveProxy(ctx context.Context) error {
	listener, err := net.Listen("tcp", os.Getenv("DEMO_LISTEN"))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	log.Printf("proxy for %s:%s serves on %s", os.Getenv("REMOTE_DB_HOST"), os.Getenv("REMOTE_DB_PORT"), listener.Addr())
	for {
		connection, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(connection, "proxy for %s:%s\n", os.Getenv("REMOTE_DB_HOST"), os.Getenv("REMOTE_DB_PORT"))
		_ = connection.Close()
	}
}

// ship prints every line that appears in the files below /var/log, as a log shipper does.
func ship(ctx context.Context) error {
	offsets := map[string]int64{}
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	log.Print("shipping /var/log/*.log")
	for {
		files, _ := filepath.Glob("/var/log/*.log")
		for _, file := range files {
			offsets[file] += printFrom(file, offsets[file])
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func printFrom(path string, offset int64) int64 {
	file, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return 0
	}
	n, _ := io.Copy(os.Stdout, file)
	return n
}
