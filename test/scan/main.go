package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"drayage.dev/test/schema"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "scan:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "manifests":
		return manifests(in, out)
	case len(args) == 2 && args[0] == "vulnerabilities":
		known, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		return vulnerabilities(in, string(known), out)
	}
	return errors.New("use: scan manifests, or scan vulnerabilities <file of known ones>")
}

func manifests(in io.Reader, out io.Writer) error {
	stream, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	objects, err := schema.Decode(string(stream))
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return errors.New("reading standard input: there is no manifest in it")
	}
	fmt.Fprintf(out, "%d objects have the fields of their kinds\n", len(objects))
	return nil
}
