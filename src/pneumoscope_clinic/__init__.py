"""Server, web page, store, DICOM node, results and monitoring: what connects the line to a hospital."""
