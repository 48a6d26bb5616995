target "base" {
  args = {
    GO = "1.25"
  }
  context = "base"
  cache-from = ["example/base"]
}
target "derived" {
  tags = ["derived:${target.base.args.GO}"]
  args = {
    GO      = target.base.args.GO
    CONTEXT = target.base.context
    UNSET   = target.base.dockerfile == null
    NAME    = target.base.name
    CACHE   = target.base.cache-from[0].ref
    GROUP   = join(",", group.all.targets)
    WHOLE   = join(",", keys(target.base))
  }
  platforms = target.later.platforms
}
target "later" {
  platforms = ["linux/arm64"]
}
group "all" {
  targets = ["base", "derived"]
}
