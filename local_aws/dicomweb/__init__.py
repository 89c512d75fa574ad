"""HealthImaging's DICOMweb plane: QIDO-RS, WADO-RS and STOW-RS over its image sets ("Using DICOMweb")."""
