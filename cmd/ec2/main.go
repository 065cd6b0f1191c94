// Command ec2 simulates Amazon EC2 on this machine, to try the ebs backend without a cloud. Volumes
// are files, and attached volumes are loop devices. It listens only on loopback.
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
	"time"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "ec2:", err)
		os.Exit(1)
	}
}

// nodeFormat is the format of the instance ids, which are the same each time.
const nodeFormat = "i-0123456789abcdef%d"

func run(ctx context.Context, args []string, out io.Writer) error {
	var o ec2test.Options
	var nodes int
	var fast bool
	c := &cobra.Command{
		Use: "ec2", Short: "A simulated EC2 on loopback, with volumes in files", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			if !fast {
				o.Delays = ec2test.Delays{Create: 1500 * time.Millisecond, Delete: time.Second, Attach: 2 * time.Second, Detach: 2 * time.Second, Modify: 2 * time.Second,
					Optimize: 5 * time.Second, Snapshot: 3 * time.Second, Lag: 200 * time.Millisecond, Answer: 50 * time.Millisecond}
			}
			return serve(c.Context(), o, nodes, out)
		},
	}
	c.SetArgs(args)
	c.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:4980", "loopback address to listen on")
	c.Flags().StringVar(&o.Disks, "dir", "build/ec2", "directory of the volumes and of the simulated sysfs")
	c.Flags().StringVar(&o.Region, "region", "local-1", "name of the region; its zones have the same name with a and b appended")
	c.Flags().IntVar(&nodes, "nodes", 2, "number of instances; the first one is this machine")
	c.Flags().BoolVar(&fast, "fast", false, "answer and execute all changes without delay")
	return c.ExecuteContext(ctx)
}

func serve(ctx context.Context, o ec2test.Options, nodes int, out io.Writer) error {
	if nodes < 1 || nodes > 9 {
		return errors.New("--nodes must be 1 to 9")
	}
	dir, err := filepath.Abs(o.Disks)
	if err != nil {
		return err
	}
	o.Disks = dir
	s, err := ec2test.New(o)
	if err != nil {
		return err
	}
	for i := range nodes {
		s.AddInstance(ec2test.Instance{ID: fmt.Sprintf(nodeFormat, i)})
	}
	_, err = fmt.Fprintf(out, `EC2 and its metadata service: %s
instances: %s

  export %s
  driver all --backend ebs --cluster-id try --aws-region %s --aws-ec2-endpoint %s \
    --aws-metadata-endpoint %s --zone %sa --sys-dir %s --links-dir %s \
    --endpoint unix:///run/sealvol/csi.sock --mounter-dir /var/lib/sealvol/mounter --kubelet-dir /var/lib/kubelet

Attached volumes are detached when this program ends.
`, s.URL(), nodeNames(nodes), strings.Join(s.Env(), " "), s.Region(), s.URL(), s.URL(), s.Region(), s.Sys(), s.Links())
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, s.Close())
}

func nodeNames(n int) string {
	var l []string
	for i := range n {
		l = append(l, fmt.Sprintf(nodeFormat, i))
	}
	return strings.Join(l, ", ")
}
