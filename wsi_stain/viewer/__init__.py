"""Slides in a web browser: `tiles` reads them, `cases` says what is to be seen, `server` hands it to the page."""
