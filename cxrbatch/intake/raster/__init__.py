"""From a PNG or JPEG file to its Radiograph. Start at `read_raster`."""
