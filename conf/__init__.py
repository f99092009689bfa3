"""What a run is: the typed config, its loader, the manifest contract and the YAML presets."""
