package app_test

import (
	"bytes"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"drayage.dev/cmd/dray/app"
)

var _ = Describe("the command tree", func() {
	It("explains each command and flag", func() {
		commands, missing := 0, []string{}
		visit(tree(), func(command *cobra.Command) {
			commands++
			for what, text := range map[string]string{"Short": command.Short, "Long": command.Long, "Example": command.Example} {
				if command.Runnable() && strings.TrimSpace(text) == "" {
					missing = append(missing, command.CommandPath()+" has no "+what+" text")
				}
			}
			command.LocalFlags().VisitAll(func(flag *pflag.Flag) {
				if !flag.Hidden && flag.Usage == "" {
					missing = append(missing, command.CommandPath()+" --"+flag.Name+" has no usage text")
				}
			})
		})
		Expect(missing).To(BeEmpty())
		Expect(commands).To(BeNumerically(">", 20))
	})

	It("names only commands and flags that exist in its examples", func() {
		examples := 0
		visit(tree(), func(command *cobra.Command) {
			for _, line := range lines(command.Example) {
				examples++
				if err := accept(line); err != nil {
					Fail(fmt.Sprintf("%s has the example %q: %v", command.CommandPath(), line, err))
				}
			}
		})
		Expect(examples).To(BeNumerically(">", 40))
	})

	It("knows a wrong example", func() {
		for _, line := range []string{"dray upp", "dray token creat", "dray rollout stat x", "dray up --nothing", "dray up now"} {
			Expect(accept(line)).NotTo(Succeed(), line)
		}
		Expect(lines("  # dray\n  dray a 'b | c' | d\n  dray e \\\n    f > g")).To(Equal([]string{"dray a 'b | c' | d", "dray e f > g"}))
		Expect(words("dray a 'b | c' \"d e\" | f")).To(Equal([]string{"dray", "a", "b | c", "d e"}))
	})
})

func tree() *cobra.Command {
	return app.NewCommand(genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: GinkgoWriter, ErrOut: GinkgoWriter})
}

// visit calls f for command and all below it.
func visit(command *cobra.Command, f func(*cobra.Command)) {
	f(command)
	for _, sub := range command.Commands() {
		visit(sub, f)
	}
}

// accept parses a command line with a tree of its own, since parsing sets flags, and runs nothing.
func accept(line string) error {
	command, args, err := tree().Find(words(line)[1:])
	if err != nil {
		return err
	}
	if err := command.ParseFlags(args); err != nil {
		return err
	}
	rest := command.Flags().Args()
	if command.HasSubCommands() && len(rest) > 0 {
		return fmt.Errorf("%s has no command %s", command.CommandPath(), rest[0])
	}
	return command.ValidateArgs(rest)
}

// lines returns the command lines of dray in an example, each in one piece.
func lines(example string) []string {
	var found []string
	for line := range strings.Lines(strings.NewReplacer("\\\n", " ").Replace(example)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == "dray" {
			found = append(found, strings.Join(fields, " "))
		}
	}
	return found
}

// words splits a command line as a shell does, up to a pipe or redirection.
func words(line string) []string {
	found, quote, within := []string{}, rune(0), false
	for _, r := range line {
		switch {
		case r == quote:
			quote = 0
		case quote == 0 && strings.ContainsRune("|<>;&", r):
			return found
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
		case quote == 0 && r == ' ':
			within = false
		case within:
			found[len(found)-1] += string(r)
		default:
			found, within = append(found, string(r)), true
		}
	}
	return found
}
