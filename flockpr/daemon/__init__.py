"""The processes: configuration, socket activation, privileges, `serve`, `flockpr-pr-helper`."""
