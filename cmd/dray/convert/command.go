package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	sigsyaml "sigs.k8s.io/yaml"
)

// errIncomplete is returned with --strict when not everything became Drayage's.
var errIncomplete = errors.New("not everything can run on Drayage, see above")

type options struct {
	files     []string
	recursive bool
	output    string
	strict    bool
	genericiooptions.IOStreams
}

// NewCommand returns `dray convert`.
func NewCommand(streams genericiooptions.IOStreams) *cobra.Command {
	o := &options{IOStreams: streams}
	command := &cobra.Command{
		Use:   "convert -f FILE|DIRECTORY|-",
		Short: "Turn ordinary Kubernetes manifests into Drayage's",
		Long: `Turns ordinary Kubernetes manifests into Drayage's and writes them to standard output.

".drayage.dev" is appended to the API group of the kinds that Drayage has ("apps/v1" becomes
"apps.drayage.dev/v1", "v1" becomes "core.drayage.dev/v1"), in references to them as well. Namespaces,
ConfigMaps, Secrets, ServiceAccounts and other kinds that every API server has stay as they are; to each
RBAC rule the same rule for Drayage's groups is added.

Standard error lists what is left out because Drayage has no such kind, and what Drayage will refuse, with
the field. The exit code is 0 all the same, and 1 with --strict, or when the input cannot be read.`,
		Example: `  # Convert and apply
  dray convert -f app.yaml | dray kubectl apply -f -

  # A directory, from another tool's output, as JSON
  dray convert -f manifests/
  helm template my-release my-chart | dray convert -f -
  dray convert -f app.yaml -o json

  # Can all of it run on Drayage?
  dray convert -f manifests/ -R --strict > /dev/null`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(*cobra.Command, []string) error { return o.run() },
	}
	flags := command.Flags()
	flags.StringSliceVarP(&o.files, "filename", "f", nil, `file or directory of manifests, or "-" for standard input; may be given several times`)
	flags.BoolVarP(&o.recursive, "recursive", "R", false, "go into the directories of a directory")
	flags.StringVarP(&o.output, "output", "o", "yaml", "yaml or json")
	flags.BoolVar(&o.strict, "strict", false, "exit with 1 when something is left out or will be refused")
	return command
}

func (o *options) run() error {
	if len(o.files) == 0 {
		return errors.New(`no manifests to convert: name them with -f, as a file, a directory or "-" for standard input`)
	}
	if o.output != "yaml" && o.output != "json" {
		return fmt.Errorf("output format %q is unknown: it is yaml or json", o.output)
	}
	catalog, err := newCatalog()
	if err != nil {
		return err
	}
	total := &result{}
	for _, name := range o.files {
		if err := o.each(name, func(file string, r io.Reader) error {
			return (&converter{catalog: catalog, file: file, result: total}).read(r)
		}); err != nil {
			return err
		}
	}
	for _, note := range total.notes {
		fmt.Fprintln(o.ErrOut, note)
	}
	if err := o.write(total); err != nil {
		return err
	}
	if len(total.notes) > 0 {
		fmt.Fprintf(o.ErrOut, "%d converted (%d of them will be refused), %d unchanged, %d left out\n",
			total.converted, total.refused, total.unchanged, total.leftOut)
		if o.strict {
			return errIncomplete
		}
	}
	return nil
}

func (o *options) write(total *result) error {
	if o.output == "yaml" {
		data, err := encode(total.documents)
		if err != nil {
			return err
		}
		_, err = o.Out.Write(data)
		return err
	}
	for i := range total.documents {
		data, err := encode(total.documents[i : i+1])
		if err != nil {
			return err
		}
		if data, err = sigsyaml.YAMLToJSON(data); err != nil {
			return fmt.Errorf("writing JSON: %w", err)
		}
		var out bytes.Buffer
		if err := json.Indent(&out, data, "", "  "); err != nil {
			return fmt.Errorf("writing JSON: %w", err)
		}
		if _, err := fmt.Fprintln(o.Out, out.String()); err != nil {
			return err
		}
	}
	return nil
}

// each opens the manifests that name stands for, in a directory those with a usual extension in order of
// their names.
func (o *options) each(name string, convert func(string, io.Reader) error) error {
	if name == "-" {
		return convert("standard input", o.In)
	}
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("reading manifests: %w", err)
	}
	if !info.IsDir() {
		return open(name, convert)
	}
	found := false
	err = filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != name && !o.recursive:
			return filepath.SkipDir
		case entry.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			return nil
		}
		found = true
		return open(path, convert)
	})
	if err == nil && !found {
		return fmt.Errorf("reading manifests: %s has no .yaml, .yml or .json file (subdirectories are read with -R)", name)
	}
	return err
}

func open(path string, convert func(string, io.Reader) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading manifests: %w", err)
	}
	defer file.Close()
	return convert(path, file)
}
