"""From files to display images and engine input. Start at `read`; nothing here knows of engines or reports."""
