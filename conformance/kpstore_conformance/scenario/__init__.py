"""The scenario engine: YAML to nodes with positions, to a typed document, to cases, to steps, to a verdict."""
