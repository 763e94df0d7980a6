package main

import (
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport/internal/admin/wire"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "bring images to the running daemon", Args: cobra.NoArgs, RunE: needsCommand}
	cmd.AddCommand(imageLoadCommand())
	return cmd
}

func imageLoadCommand() *cobra.Command {
	var l live
	var in wire.Load
	cmd := liveCommand(&cobra.Command{
		Use: "load LAYOUT", Short: "pull an image from an OCI layout on this node, through the gate", Args: cobra.ExactArgs(1),
		Long: "LAYOUT is a directory with oci-layout and index.json. Signatures and attestations are its entries whose\n" +
			"subject is the image. The image is judged as one that comes from a registry, and stored under the name.",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if in.Layout, err = filepath.Abs(args[0]); err != nil {
				return err
			}
			v, err := ask[wire.Loaded](l, wire.CallLoad, in, wire.LoadLimit+time.Minute)
			if err != nil {
				return err
			}
			return l.show(cmd.OutOrStdout(), v, func(t *tabwriter.Writer) {
				fmt.Fprintf(t, "image %s\n  ID %s\n  means %s, here %s\n  with %d Sigstore bundles, %d simple signatures\n", printable(v.Image), v.ID, v.Top, v.Instance,
					v.Evidence.Bundles, v.Evidence.Simple)
			})
		},
	}, &l)
	cmd.Flags().StringVar(&in.Name, "name", "", "full name that the image is to have, with tag or digest")
	cmd.Flags().StringVarP(&in.Namespace, "namespace", "n", "", "of the pods that want it; without it the node policy alone is asked")
	cmd.MarkFlagRequired("name")
	return cmd
}
