// Package token is `dray token`: it makes, lists and deletes the tokens by which machines join a cluster.
package token

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/yaml"

	"drayage.dev/cmd/dray/client"
	"drayage.dev/controlplane/join"
)

// NewCommand returns `dray token`.
func NewCommand() *cobra.Command {
	flags := client.NewFlags()
	command := &cobra.Command{
		Use:   "token",
		Short: "Manage the tokens by which machines join",
		Long: `Manages the tokens by which machines join the cluster. A token is a secret: who has it can add a machine, and
pods will be sent there. It also carries a pin of the cluster's authority, by which the machine knows the
server. Deleting a token does not remove machines that joined with it.`,
		Example: `  # A token for an hour, and the command to run on the machine
  dray token create --ttl 1h

  dray token list
  dray token delete abcdef`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	flags.AddFlags(command.PersistentFlags())
	command.AddCommand(newCreate(flags), newList(flags), newDelete(flags))
	for _, sub := range command.Commands() {
		sub.SilenceUsage, sub.SilenceErrors = true, true
	}
	return command
}

func newCreate(flags *client.Flags) *cobra.Command {
	var lifetime time.Duration
	var description string
	command := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it",
		Long: `Makes a token by which machines can join for as long as --ttl says, and prints it: this is the only time that its
secret is shown.`,
		Example: `  dray token create
  dray agent --join https://10.0.0.5:6443 --token "$(ssh 10.0.0.5 dray token create --ttl 10m)"`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if lifetime < 0 {
				return fmt.Errorf("making a token: a lifetime of %s is over already", lifetime)
			}
			config, err := flags.ToRESTConfig()
			if err != nil {
				return err
			}
			authority, err := authorityOf(config)
			if err != nil {
				return err
			}
			clients, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			token, err := join.NewToken(authority)
			if err != nil {
				return err
			}
			if err := join.StoreToken(command.Context(), clients, token, lifetime, description); err != nil {
				return err
			}
			fmt.Fprintln(command.OutOrStdout(), token)
			return nil
		},
	}
	command.Flags().DurationVar(&lifetime, "ttl", 24*time.Hour, "how long the token is valid; 0 for ever")
	command.Flags().StringVar(&description, "description", "", "what the token is for, shown by `dray token list`")
	return command
}

func newList(flags *client.Flags) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "list",
		Short: "List the valid tokens, without their secrets",
		Long: `Lists the tokens that are valid still: their IDs, when they expire and what they are for. The secret of a token is
printed once, when it is made.`,
		Example: `  dray token list

  # For scripts
  dray token list -o json
  dray token list -o name | xargs dray token delete`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			clients, err := newClient(flags)
			if err != nil {
				return err
			}
			tokens, err := join.ListTokens(command.Context(), clients)
			if err != nil {
				return err
			}
			return write(command.OutOrStdout(), tokens, output)
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "", "json, yaml, or name for the IDs alone (default: a table)")
	return command
}

func write(out io.Writer, tokens []join.Stored, output string) error {
	switch output {
	case "":
		table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
		fmt.Fprintln(table, "ID\tEXPIRES\tDESCRIPTION")
		for _, token := range tokens {
			expires := "never"
			if !token.Expires.IsZero() {
				expires = "in " + duration.HumanDuration(time.Until(token.Expires))
			}
			fmt.Fprintf(table, "%s\t%s\t%s\n", token.ID, expires, token.Description)
		}
		return table.Flush()
	case "name":
		for _, token := range tokens {
			fmt.Fprintln(out, token.ID)
		}
		return nil
	case "json":
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(tokens)
	case "yaml":
		text, err := yaml.Marshal(tokens)
		if err == nil {
			_, err = out.Write(text)
		}
		return err
	}
	return fmt.Errorf("--output %q is none of json, yaml and name", output)
}

func newDelete(flags *client.Flags) *cobra.Command {
	return &cobra.Command{
		Use:   "delete ID...",
		Short: "Delete tokens by their IDs",
		Long: `Deletes tokens by their IDs, which the list shows. No machine can join with them any more; machines that have
joined stay.`,
		Example: `  dray token delete abcdef`,
		Args:    cobra.MinimumNArgs(1),
		ValidArgsFunction: func(command *cobra.Command, given []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var ids []cobra.Completion
			if clients, err := newClient(flags); err == nil {
				// An error leaves nothing to offer, and there is nowhere to tell.
				tokens, _ := join.ListTokens(command.Context(), clients)
				for _, token := range tokens {
					if strings.HasPrefix(token.ID, begun) && !slices.Contains(given, token.ID) {
						ids = append(ids, cobra.CompletionWithDesc(token.ID, token.Description))
					}
				}
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(command *cobra.Command, ids []string) error {
			clients, err := newClient(flags)
			if err != nil {
				return err
			}
			var errs []error
			for _, id := range ids {
				if err := join.DeleteToken(command.Context(), clients, id); err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(command.OutOrStdout(), "token %s deleted\n", id)
			}
			return errors.Join(errs...)
		},
	}
}

func newClient(flags *client.Flags) (kubernetes.Interface, error) {
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// authorityOf returns the authority that a kubeconfig trusts, which is the one that joining machines will.
func authorityOf(config *rest.Config) (*x509.Certificate, error) {
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, fmt.Errorf("reading the kubeconfig's certificates: %w", err)
	}
	if len(config.CAData) == 0 {
		return nil, errors.New("making a token: the kubeconfig names no certificate authority to pin: use the server's own server/kubeconfig/admin.conf")
	}
	certs, err := certutil.ParseCertsPEM(config.CAData)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig's authority: %w", err)
	}
	return certs[0], nil
}
