"""From a slide to its tiles: what decides them, the survey of the thumbnail, the tasks, streamed slides."""
