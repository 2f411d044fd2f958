"""From video files to features: decoders, transforms, backbones with cuts, the extraction run."""
