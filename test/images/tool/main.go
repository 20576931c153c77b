package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// status is an exit code that a command ends with and has said everything about.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// streams are the standard streams of a command.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	args := append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...)
	if args[0] == "tool" {
		args = args[1:]
	}
	if len(args) == 0 {
		args = []string{"sh"}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	std := streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	err := run(ctx, std, "", args)
	var code status
	switch {
	case ctx.Err() != nil:
		os.Exit(128 + int(syscall.SIGTERM))
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		os.Exit(1)
	}
}

// run executes one command in a directory ("" is the current one).
func run(ctx context.Context, std streams, dir string, args []string) error {
	if args[0] == "sh" {
		return shell(ctx, std, args[1:])
	}
	command, known := commands[args[0]]
	if !known {
		return fmt.Errorf("no such command in this image")
	}
	return command(ctx, std, at(dir), args[1:])
}

// shell runs `sh -c SCRIPT`, `sh FILE`, or standard input.
func shell(ctx context.Context, std streams, args []string) error {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "-c" {
		args = args[1:] // -e, -x and the like: scripts here are short
	}
	source := std.in
	name := "stdin"
	params := []string{"--"}
	switch {
	case len(args) > 1 && args[0] == "-c":
		source, name = strings.NewReader(args[1]), "-c"
		if len(args) > 3 {
			params = append(params, args[3:]...)
		}
	case len(args) > 0:
		file, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer file.Close()
		source, name = file, args[0]
		params = append(params, args[1:]...)
	}
	runner, err := interp.New(
		interp.StdIO(std.in, std.out, std.err), interp.Params(params...),
		interp.ExecHandlers(func(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
			return func(ctx context.Context, args []string) error {
				name := filepath.Base(args[0])
				if _, known := commands[name]; !known && name != "sh" {
					return next(ctx, args)
				}
				handler := interp.HandlerCtx(ctx)
				err := run(ctx, streams{handler.Stdin, handler.Stdout, handler.Stderr}, handler.Dir, append([]string{name}, args[1:]...))
				var code status
				switch {
				case err == nil:
					return nil
				case errors.As(err, &code):
					return interp.ExitStatus(code)
				default:
					fmt.Fprintf(handler.Stderr, "%s: %v\n", name, err)
					return interp.ExitStatus(1)
				}
			}
		}))
	if err != nil {
		return err
	}
	script, err := syntax.NewParser().Parse(source, name)
	if err != nil {
		return err
	}
	var exit interp.ExitStatus
	if err := runner.Run(ctx, script); errors.As(err, &exit) {
		return status(exit)
	} else if err != nil {
		return err
	}
	return nil
}
