package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sallyport/image/ref"
	"sallyport/test/node"
	"sallyport/test/sigkit"
)

const (
	app      = registryHost + "/pay/app:v1"
	tool     = registryHost + "/tools/box:v1"
	unsigned = registryHost + "/pay/unsigned:v1"
	impostor = registryHost + "/pay/impostor:v1"
	moved    = registryHost + "/pay/moved:v1"
)

// look is what the container runs: it shows what the kernel holds it to.
const look = `echo "hello from $(hostname)"; grep -E "^(CapInh|CapEff|CapBnd|CapAmb|Seccomp|NoNewPrivs):" /proc/self/status`

func (d *demo) story() error {
	if err := d.publish(); err != nil {
		return err
	}
	d.pulls()
	if err := d.runs(); err != nil {
		return err
	}
	d.privileged()
	return d.audit()
}

// publish pushes the images and signs those that are to be signed.
func (d *demo) publish() error {
	for _, p := range []struct {
		name string
		sign func(ref.Digest) ([]byte, error)
	}{
		{app, func(at ref.Digest) ([]byte, error) { return d.kit.SignKeyless(at, release) }},
		{tool, func(at ref.Digest) ([]byte, error) { return sigkit.SignKey(d.key, at) }},
		{unsigned, nil},
		{impostor, func(at ref.Digest) ([]byte, error) { return d.kit.SignKeyless(at, mallory) }},
		{moved, func(at ref.Digest) ([]byte, error) { return d.kit.SignKeyless(at, release) }},
	} {
		at, err := d.push(p.name, p.name)
		if err != nil {
			return err
		}
		if p.sign == nil {
			continue
		}
		bundle, err := p.sign(at)
		if err != nil {
			return err
		}
		name, err := ref.Parse(p.name)
		if err != nil {
			return err
		}
		if err := sigkit.Attach(name.Repository(), at, bundle, sigkit.FallbackTag); err != nil {
			return err
		}
	}
	_, err := d.push(moved, "other contents under the same tag")
	return err
}

func (d *demo) push(name, contents string) (ref.Digest, error) {
	img, err := sigkit.Image(sigkit.ImageOptions{
		Config: v1.Config{Entrypoint: []string{"/bin/sh", "-c", look}}, Files: map[string]string{"/about": contents},
	})
	if err != nil {
		return ref.Digest{}, err
	}
	return sigkit.Push(name, img)
}

func (d *demo) pulls() {
	pod := d.node.Pod("payments", "pull")
	pull := func(image string) string {
		id, err := d.node.Pull(d.ctx, image, pod)
		return outcome(err, "pulled, image ID "+id)
	}
	d.step("Pull an image that the release workflow signed (short-lived certificate, SCT and timestamp)",
		"pulled", pull(app), "pulled, image ID sha256:")
	d.step("Pull an image that nobody signed", `refused: SignatureValidationFailed, rule "signed-by-acme"`,
		pull(unsigned), "SignatureValidationFailed", `rule "signed-by-acme"`)
	d.step("Pull an image that somebody else signed", "refused, and the text names the wrong identity",
		pull(impostor), "SignatureValidationFailed", mallory.SAN)
	d.step("Pull a tag that was moved to other contents after signing", "refused: the signature is of other bytes",
		pull(moved), "SignatureValidationFailed", `rule "signed-by-acme"`)
	shop := d.node.Pod("shop", "pull")
	id, err := d.node.Pull(d.ctx, tool, shop)
	d.step("Pull an image signed with a key, for a namespace that admits the key", "pulled", outcome(err, "pulled, image ID "+id), "pulled, image ID sha256:")
}

// started is a container that ran to its end.
func (d *demo) start(namespace, image, imageID string) (string, error) {
	pod := d.node.Pod(namespace, "demo")
	podID, err := d.node.RunPod(d.ctx, pod)
	if err != nil {
		return "", err
	}
	defer d.node.RemovePod(d.ctx, podID)
	c := node.Container("app", image, imageID)
	id, err := d.node.Create(d.ctx, podID, pod, c)
	if err != nil {
		return "", err
	}
	if err := d.node.Start(d.ctx, id); err != nil {
		return "", err
	}
	status, err := d.node.Wait(d.ctx, id)
	if err != nil {
		return "", err
	}
	log, err := d.node.ContainerLog(pod, c)
	return fmt.Sprintf("exit code %d; its log:\n%s", status.ExitCode, log), err
}

func (d *demo) runs() error {
	st, err := d.node.Images.ImageStatus(d.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: app}})
	if err != nil {
		return err
	}
	if st.Image == nil {
		return errors.New("the pulled image is not there")
	}
	out, err := d.start("payments", app, st.Image.Id)
	d.step("Run it in namespace payments; the kubelet's request says seccomp Unconfined and no_new_privs false, as for any pod that asks nothing",
		"it runs with the default capabilities, none inheritable or ambient, a seccomp filter (mode 2)",
		outcome(err, out), "exit code 0", "hello from demo", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "Seccomp:\t2", "CapBnd:\t00000000")
	d.stopRegistry()
	out, err = d.start("shop", app, st.Image.Id)
	d.step("Stop the registry; start the same image in namespace shop, whose policy admits it",
		"it runs, since create needs no network, and with no_new_privs, which shop's hardening.yaml sets", outcome(err, out), "exit code 0", "NoNewPrivs:\t1")
	out, err = d.start("vault", app, st.Image.Id)
	d.step("Start it in namespace vault, whose policy wants the security team's signature",
		`refused at create, rule "vault-security-team"`, outcome(err, out), "PermissionDenied", `rule "vault-security-team"`)
	return nil
}

func (d *demo) privileged() {
	pod := d.node.Pod("payments", "root-please")
	pod.Linux.SecurityContext.Privileged = true
	id, err := d.node.RunPod(d.ctx, pod)
	d.step("Run a privileged pod", `refused by the node's Rego rule "no-privileged-pods"`,
		outcome(err, "runs as "+id), "PermissionDenied", `rule "no-privileged-pods"`)
}

// audit stops the daemon, verifies the log, and then changes one byte of it.
func (d *demo) audit() error {
	if err := d.node.StopDaemon(); err != nil {
		return err
	}
	dir := d.node.Path("root/audit")
	out, err := exec.CommandContext(d.ctx, filepath.Join(d.bin, "sallyport"), "audit", "verify", "--dir", dir).CombinedOutput()
	d.step("Verify the audit log", "whole", string(out)+outcome(err, "exit code 0"), "exit code 0")
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	changed := ""
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || len(b) < 1000 {
			continue
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(f, b, 0o600); err != nil {
			return err
		}
		changed = filepath.Base(f)
		break
	}
	out, err = exec.CommandContext(d.ctx, filepath.Join(d.bin, "sallyport"), "audit", "verify", "--dir", dir).CombinedOutput()
	d.step("Change one bit in the middle of "+changed+" and verify again", "the change is found and named",
		string(out)+outcome(err, "exit code 0"), changed, "exit status 1")
	return nil
}
