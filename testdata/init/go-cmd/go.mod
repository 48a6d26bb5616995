module example.org/probe
