"""Self-consuming (autophagous) loops."""
