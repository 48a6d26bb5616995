module example.org/team/probe/v2

go 1.23.4
