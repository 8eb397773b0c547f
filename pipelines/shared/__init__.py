"""What several commands share: configuration, device, progress, tables, checks before work."""
