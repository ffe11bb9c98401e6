"""A small online shop without a line of OpenTelemetry in it; see README.md."""
