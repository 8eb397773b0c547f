"""The ground that everything stands on: errors, geometry, files that survive a crash, storage. Knows no slides."""
