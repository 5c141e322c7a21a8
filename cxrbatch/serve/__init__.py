"""The worklist and the reports of one output folder, served to browsers: start at `server`. Needs the extra `serve`."""
