// Marshals a set of LLB states into files.
package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

var _ = digest.Canonical
var _ = proto.Marshal
var _ = pb.SecurityMode_INSECURE

func write(dir, name string, st llb.State, opts ...llb.ConstraintsOpt) {
	opts = append([]llb.ConstraintsOpt{llb.LinuxAmd64}, opts...)
	def, err := st.Marshal(context.TODO(), opts...)
	if err != nil {
		panic(name + ": " + err.Error())
	}
	f, err := os.Create(filepath.Join(dir, name+".pb"))
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if err := llb.WriteTo(def, f); err != nil {
		panic(err)
	}
}

func main() {
	dir := os.Args[1]
	when := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	at := llb.WithCreatedTime(when)
	busybox := llb.Local("busybox", llb.WithCustomName("the tools"))
	// A root file system with programs: /bin/busybox and a link for sh.
	root := llb.Scratch().
		File(llb.Mkdir("/bin", 0o755, at)).
		File(llb.Copy(busybox, "busybox", "/bin/busybox", at)).
		File(llb.Symlink("busybox", "/bin/sh", llb.WithCreatedTime(when)))
	sh := func(s string) llb.RunOption { return llb.Args([]string{"/bin/busybox", "sh", "-ec", s}) }

	write(dir, "files", llb.Scratch().
		File(llb.Mkdir("/a/b/c", 0o750, llb.WithParents(true), llb.WithUIDGID(7, 8), at)).
		File(llb.Mkdir("/a/b", 0o700, at)). // there already
		File(llb.Mkfile("/a/f", 0o4640, []byte("one\n"), llb.WithUIDGID(1, 2), at)).
		File(llb.Mkfile("/a/f", 0o600, []byte("two\n"), at)). // there already
		File(llb.Mkfile("relative", 0o644, []byte("x"), at)).
		File(llb.Mkdir("/esc", 0o755, at).Mkfile("/esc/../../up", 0o644, []byte("up"), at)).
		File(llb.Symlink("../a/f", "/esc/link", llb.WithCreatedTime(when))).
		File(llb.Mkfile("/esc/link", 0o644, []byte("through\n"), at)).
		File(llb.Mkdir("/gone/x", 0o755, llb.WithParents(true), at)).
		File(llb.Rm("/gone/x")).
		File(llb.Rm("/nothing", llb.WithAllowNotFound(true))).
		File(llb.Rm("/none*", llb.WithAllowWildcard(true))).
		File(llb.Mkfile("/t1", 0o644, nil, at).Mkfile("/t2", 0o644, nil, at).Mkfile("/u1", 0o644, nil, at)).
		File(llb.Rm("/t*", llb.WithAllowWildcard(true))))

	ctx := llb.Local("context")
	write(dir, "copies", llb.Scratch().
		File(llb.Copy(ctx, "/dir", "/into/", &llb.CopyInfo{CreateDestPath: true}, at)).
		File(llb.Copy(ctx, "/dir", "/contents", &llb.CopyInfo{CreateDestPath: true, CopyDirContentsOnly: true}, at)).
		File(llb.Copy(ctx, "/dir", "/new", at)).
		File(llb.Copy(ctx, "/*.txt", "/wild/", &llb.CopyInfo{CreateDestPath: true, AllowWildcard: true}, at)).
		File(llb.Copy(ctx, "/no*", "/", &llb.CopyInfo{AllowWildcard: true, AllowEmptyWildcard: true}, at)).
		File(llb.Copy(ctx, "/", "/inc", &llb.CopyInfo{CreateDestPath: true, CopyDirContentsOnly: true, IncludePatterns: []string{"dir/sub/**"}}, at)).
		File(llb.Copy(ctx, "/", "/exc", &llb.CopyInfo{CreateDestPath: true, CopyDirContentsOnly: true, ExcludePatterns: []string{"dir/sub", "*.txt", "*.tar"}}, at)).
		File(llb.Copy(ctx, "/link", "/followed", &llb.CopyInfo{FollowSymlinks: true}, at)).
		File(llb.Copy(ctx, "/link", "/kept", at)).
		File(llb.Copy(ctx, "/one.txt", "/owned", &llb.CopyInfo{ChownOpt: &llb.ChownOpt{User: &llb.UserOpt{UID: 5}, Group: &llb.UserOpt{UID: 6}}, Mode: &llb.ChmodOpt{Mode: 0o751}}, at)).
		File(llb.Copy(ctx, "/one.txt", "/symbolic", &llb.CopyInfo{Mode: &llb.ChmodOpt{ModeStr: "u=rwX,go=rX"}}, at)).
		File(llb.Copy(ctx, "/a.tar", "/unpacked/", &llb.CopyInfo{AttemptUnpack: true, CreateDestPath: true})))

	only := llb.Local("context", llb.IncludePatterns([]string{"dir", "one.txt"}), llb.ExcludePatterns([]string{"dir/sub"}), llb.SharedKeyHint("x"), llb.Differ(llb.DiffMetadata, false))
	write(dir, "local", llb.Scratch().File(llb.Copy(only, "/", "/", &llb.CopyInfo{CopyDirContentsOnly: true}, at)))

	// Outputs of mounts, a directory that nobody made, a root that cannot be written to.
	run := root.Dir("/made/here").Run(sh("busybox=/bin/busybox; $busybox pwd > /out/pwd; echo root > /root-file; echo sel > /sel/inner; $busybox ls -a /made > /out/ls"),
		llb.AddEnv("A", "b"))
	out := run.AddMount("/out", llb.Scratch())
	sel := run.AddMount("/sel", llb.Scratch().File(llb.Mkdir("/deep/er", 0o711, llb.WithParents(true), at)), llb.SourcePath("/deep/er"))
	write(dir, "mount-root", run.Root())
	write(dir, "mount-out", out)
	write(dir, "mount-selected", sel)
	all := llb.Scratch().
		File(llb.Copy(out, "/", "/out", &llb.CopyInfo{CreateDestPath: true, CopyDirContentsOnly: true}, at)).
		File(llb.Copy(sel, "/", "/sel", &llb.CopyInfo{CreateDestPath: true, CopyDirContentsOnly: true}, at)).
		File(llb.Copy(run.Root(), "/root-file", "/root-file", at))
	write(dir, "mount-all", all)

	ro := root.Run(sh("if echo x 2>/dev/null > /x; then echo wrote > /out/said; else echo refused > /out/said; fi; echo y > /tmpfs/y; echo cached > /cache/c; echo z 2>/dev/null > /bound/z || echo also >> /out/said"),
		llb.ReadonlyRootFS(),
		llb.AddMount("/tmpfs", llb.Scratch(), llb.Tmpfs(llb.TmpfsSize(1<<20))),
		llb.AddMount("/cache", llb.Scratch(), llb.AsPersistentCacheDir("rbuild-llb", llb.CacheMountLocked)),
		llb.AddMount("/bound", llb.Scratch(), llb.Readonly),
	)
	write(dir, "readonly", ro.AddMount("/out", llb.Scratch()))

	// What a step is told.
	told := root.Run(sh(`busybox=/bin/busybox; { $busybox env | $busybox grep -v -e OTEL -e TRACE | $busybox sort; $busybox id -u; $busybox id -g; $busybox hostname; $busybox grep -v localhost /etc/hosts | $busybox grep other; ulimit -n; $busybox cat /run/secrets/s; echo "$SECRET"; $busybox ls /run/no || true; } > /told 2>/dev/null`),
		llb.AddEnv("B", "c d"), llb.AddEnv("A", "1"), llb.AddEnv("A", "2"),
		llb.AddExtraHost("other", []byte{10, 1, 2, 3}),
		llb.AddUlimit(llb.UlimitNofile, 123, 456),
		llb.WithCgroupParent(""),
		llb.AddSecret("/run/secrets/s", llb.SecretID("s"), llb.SecretFileOpt(0, 0, 0o400)),
		llb.AddSecret("SECRET", llb.SecretID("s"), llb.SecretAsEnvName("SECRET")),
		llb.AddSecret("/run/no", llb.SecretID("no"), llb.SecretOptional),
		llb.WithProxy(llb.ProxyEnv{HTTPProxy: "http://proxy.example"}),
		llb.Network(llb.NetModeNone),
	)
	write(dir, "told", llb.Scratch().File(llb.Copy(told.Root(), "/told", "/told", at)))
	named := root.Hostname("named").User("12:34").Run(sh("/bin/busybox hostname; /bin/busybox id -u > /dev/null; /bin/busybox mkdir -p /tmp/x 2>/dev/null || echo no"))
	write(dir, "user", named.Root())

	// Merge and diff.
	a := llb.Scratch().File(llb.Mkfile("/a", 0o644, []byte("a"), at)).File(llb.Mkfile("/both", 0o644, []byte("a"), at))
	b := llb.Scratch().File(llb.Mkfile("/b", 0o644, []byte("b"), at)).File(llb.Mkfile("/both", 0o600, []byte("b"), at))
	write(dir, "merge", llb.Merge([]llb.State{a, llb.Scratch(), b}))
	c := a.File(llb.Mkfile("/c", 0o644, []byte("c"), at)).File(llb.Rm("/a"))
	write(dir, "diff", llb.Diff(a, c))
	write(dir, "diff-unrelated", llb.Diff(a, b))
	write(dir, "diff-removed", llb.Merge([]llb.State{a, llb.Diff(a, c)}))
	write(dir, "diff-everything", llb.Merge([]llb.State{a, llb.Diff(a, llb.Scratch())}))

	// Owners by name are looked up in the passwd file of what is written to.
	people := llb.Scratch().File(llb.Mkdir("/etc", 0o755, at).
		Mkfile("/etc/passwd", 0o644, []byte("app:x:77:78::/:/none\n"), at).
		Mkfile("/etc/group", 0o644, []byte("app:x:78:\nstaff:x:79:\n"), at))
	write(dir, "owners", people.
		File(llb.Mkdir("/home", 0o755, llb.WithUser("app"), at)).
		File(llb.Mkfile("/home/f", 0o644, nil, llb.WithUser("app:staff"), at)))

	// Sources that are not here, for the form alone.
	write(dir, "sources", llb.Scratch().
		File(llb.Copy(llb.Git("https://example.com/a/b.git", "v1", llb.KeepGitDir()), "/", "/git/", &llb.CopyInfo{CreateDestPath: true})).
		File(llb.Copy(llb.HTTP("https://example.com/x.tgz", llb.Checksum("sha256:"+zeros), llb.Filename("y.tgz"), llb.Chmod(0o755)), "/y.tgz", "/")).
		File(llb.Copy(llb.Image("alpine:3.20"), "/etc", "/image/", &llb.CopyInfo{CreateDestPath: true})).
		File(llb.Copy(llb.OCILayout("layout@sha256:"+zeros, llb.OCIStore("", "store")), "/", "/layout/", &llb.CopyInfo{CreateDestPath: true})))
	// What rbuild has no place for.
	write(dir, "refused", root.
		Run(sh("exit 3"), llb.ValidExitCodes(3), llb.WithCustomName("may fail")).
		Run(sh("true"), llb.AddCDIDevice(llb.CDIDeviceName("vendor.example/device=1")), llb.WithCustomName("wants a device")).
		Root())
	write(dir, "insecure", root.Run(sh("true"), llb.Security(pb.SecurityMode_INSECURE), llb.Network(llb.NetModeHost)).Root())
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"
