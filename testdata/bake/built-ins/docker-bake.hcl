target "default" {
  platforms = [BAKE_LOCAL_PLATFORM]
  context = BAKE_CMD_CONTEXT
  args = { OS = split("/", BAKE_LOCAL_PLATFORM)[0] }
}
