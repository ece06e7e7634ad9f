"""The DICOM side: the node, DICOMweb, and the delivery of results."""
