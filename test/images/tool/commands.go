package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// at is the directory that a command's relative paths start from.
type at string

func (a at) path(name string) string {
	if a == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(string(a), name)
}

// commands are the applets besides the shell.
var commands = map[string]func(ctx context.Context, std streams, dir at, args []string) error{
	"cat": cat, "chmod": chmod, "env": env, "grep": grep, "hostname": hostname, "id": id, "kill": kill,
	"ls": ls, "mkdir": mkdir, "nslookup": nslookup, "ps": ps, "rm": rm, "sleep": sleep, "stat": stat,
	"touch": touch, "wget": wget,
}

// split separates single-letter options from operands and refuses options that are not allowed.
func split(args []string, allowed string) (options string, operands []string, err error) {
	for i, arg := range args {
		if arg == "--" {
			return options, append(operands, args[i+1:]...), nil
		}
		if len(arg) < 2 || arg[0] != '-' {
			operands = append(operands, arg)
			continue
		}
		for _, option := range arg[1:] {
			if !strings.ContainsRune(allowed, option) {
				return "", nil, fmt.Errorf("unknown option -%c", option)
			}
		}
		options += arg[1:]
	}
	return options, operands, nil
}

func cat(_ context.Context, std streams, dir at, args []string) error {
	if len(args) == 0 {
		_, err := io.Copy(std.out, std.in)
		return err
	}
	for _, name := range args {
		file, err := os.Open(dir.path(name))
		if err != nil {
			return err
		}
		_, err = io.Copy(std.out, file)
		file.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func chmod(_ context.Context, _ streams, dir at, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want a mode and files")
	}
	mode, err := strconv.ParseUint(args[0], 8, 12)
	if err != nil {
		return err
	}
	for _, name := range args[1:] {
		if err := os.Chmod(dir.path(name), os.FileMode(mode)); err != nil {
			return err
		}
	}
	return nil
}

func env(_ context.Context, std streams, _ at, _ []string) error {
	for _, pair := range os.Environ() {
		fmt.Fprintln(std.out, pair)
	}
	return nil
}

func grep(_ context.Context, std streams, dir at, args []string) error {
	options, operands, err := split(args, "qvi")
	if err != nil {
		return err
	}
	if len(operands) == 0 {
		return fmt.Errorf("want a pattern")
	}
	pattern := operands[0]
	if strings.Contains(options, "i") {
		pattern = "(?i)" + pattern
	}
	expression, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	inputs := []io.Reader{std.in}
	if len(operands) > 1 {
		inputs = nil
	}
	for _, name := range operands[1:] {
		file, err := os.Open(dir.path(name))
		if err != nil {
			return err
		}
		defer file.Close()
		inputs = append(inputs, file)
	}
	found := false
	for scanner := bufio.NewScanner(io.MultiReader(inputs...)); scanner.Scan(); {
		if expression.MatchString(scanner.Text()) != strings.Contains(options, "v") {
			found = true
			if !strings.Contains(options, "q") {
				fmt.Fprintln(std.out, scanner.Text())
			}
		}
	}
	if !found {
		return status(1)
	}
	return nil
}

func hostname(_ context.Context, std streams, _ at, _ []string) error {
	name, err := os.Hostname()
	fmt.Fprintln(std.out, name)
	return err
}

func id(_ context.Context, std streams, _ at, args []string) error {
	options, _, err := split(args, "ugG")
	if err != nil {
		return err
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	words := make([]string, len(groups))
	for i, group := range groups {
		words[i] = strconv.Itoa(group)
	}
	switch options {
	case "u":
		fmt.Fprintln(std.out, os.Getuid())
	case "g":
		fmt.Fprintln(std.out, os.Getgid())
	case "G":
		fmt.Fprintln(std.out, strings.Join(words, " "))
	default:
		fmt.Fprintf(std.out, "uid=%d gid=%d groups=%s\n", os.Getuid(), os.Getgid(), strings.Join(words, ","))
	}
	return nil
}

func kill(_ context.Context, _ streams, _ at, args []string) error {
	signal := syscall.SIGTERM
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		number, err := strconv.Atoi(args[0][1:])
		if err != nil {
			return fmt.Errorf("signal %q: want a number", args[0][1:])
		}
		signal, args = syscall.Signal(number), args[1:]
	}
	for _, arg := range args {
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, signal); err != nil {
			return err
		}
	}
	return nil
}

func ls(_ context.Context, std streams, dir at, args []string) error {
	_, operands, err := split(args, "la1")
	if err != nil {
		return err
	}
	if len(operands) == 0 {
		operands = []string{"."}
	}
	for _, name := range operands {
		entries, err := os.ReadDir(dir.path(name))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			fmt.Fprintln(std.out, entry.Name())
		}
	}
	return nil
}

func mkdir(_ context.Context, _ streams, dir at, args []string) error {
	_, operands, err := split(args, "p")
	if err != nil {
		return err
	}
	for _, name := range operands {
		if err := os.MkdirAll(dir.path(name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// nslookup resolves a name through /etc/resolv.conf, search path included, and prints its addresses.
func nslookup(ctx context.Context, std streams, _ at, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one name")
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, args[0])
	if err != nil {
		return err
	}
	slices.Sort(addresses)
	for _, address := range addresses {
		fmt.Fprintln(std.out, address)
	}
	return nil
}

func ps(_ context.Context, std streams, _ at, _ []string) error {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, line := range lines {
		data, err := os.ReadFile(line)
		if err != nil {
			continue // it has ended meanwhile
		}
		fmt.Fprintln(std.out, filepath.Base(filepath.Dir(line)), strings.ReplaceAll(strings.TrimRight(string(data), "\x00"), "\x00", " "))
	}
	return nil
}

func rm(_ context.Context, _ streams, dir at, args []string) error {
	options, operands, err := split(args, "rf")
	if err != nil {
		return err
	}
	for _, name := range operands {
		remove := os.Remove
		if strings.Contains(options, "r") {
			remove = os.RemoveAll
		}
		if err := remove(dir.path(name)); err != nil && !(os.IsNotExist(err) && strings.Contains(options, "f")) {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, _ streams, _ at, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want seconds, or infinity")
	}
	if args[0] == "infinity" {
		<-ctx.Done()
		return status(128 + int(syscall.SIGTERM))
	}
	seconds, err := strconv.ParseFloat(strings.TrimSuffix(args[0], "s"), 64)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return status(128 + int(syscall.SIGTERM))
	case <-time.After(time.Duration(seconds * float64(time.Second))):
		return nil
	}
}

// stat prints mode, owner, group, size and name of each file.
func stat(_ context.Context, std streams, dir at, args []string) error {
	for _, name := range args {
		info, err := os.Stat(dir.path(name))
		if err != nil {
			return err
		}
		system := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(std.out, "%04o %d %d %d %s\n", info.Mode().Perm()|info.Mode()&os.ModeSetgid>>12, system.Uid, system.Gid, info.Size(), name)
	}
	return nil
}

func touch(_ context.Context, _ streams, dir at, args []string) error {
	for _, name := range args {
		file, err := os.OpenFile(dir.path(name), os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}

// wget prints what a URL answers: `wget -qO- URL`, with `-T SECONDS` for another time limit than 5 s.
func wget(ctx context.Context, std streams, _ at, args []string) error {
	timeout := 5 * time.Second
	var target string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-T" && i+1 < len(args):
			seconds, err := strconv.Atoi(args[i+1])
			if err != nil {
				return err
			}
			timeout = time.Duration(seconds) * time.Second
			i++
		case args[i] == "-qO-" || args[i] == "-q" || args[i] == "-O-":
		case strings.HasPrefix(args[i], "-"):
			return fmt.Errorf("unknown option %s", args[i])
		default:
			target = args[i]
		}
	}
	if !strings.Contains(target, "://") {
		target = "http://" + target
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(std.out, response.Body); err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s", response.Status)
	}
	return nil
}
