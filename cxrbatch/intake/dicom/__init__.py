"""From a DICOM file to its header and its Radiograph. Start at `read_dicom`."""
