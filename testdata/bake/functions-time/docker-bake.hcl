target "default" {
  args = {
    date   = formatdate("YYYY-MM-DD'T'hh:mm:ssZ 'o''clock' EEE EEEE MMM MMMM D M YY H HH AA aa h m s ZZZZ ZZZZZ ZZZ ''", "2024-02-29T13:04:05Z")
    zone   = formatdate("hh:mm Z ZZZ ZZZZ ZZZZZ EEE", "2023-12-31T23:59:00-05:30")
    stamp  = jsonencode([formattimestamp("X", "2024-02-29T13:04:05Z"), formattimestamp("YYYY-MM-DD", 0), formattimestamp("YYYYMMDDhhmmss", 1700000000), formattimestamp("X", 5)])
    add    = jsonencode([timeadd("2024-02-28T23:00:00Z", "1h30m"), timeadd("2024-01-01T00:00:00+02:00", "-1.5s"), timeadd("2024-01-01T00:00:00.9Z", "200ms")])
    parse  = jsonencode([unixtimestampparse(1690328596), unixtimestampparse(-1), unixtimestampparse(1609459200)])
  }
}
