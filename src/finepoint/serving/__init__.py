"""The endpoint: an HTTP server over a package, the registry of servers on this machine, and the client."""
