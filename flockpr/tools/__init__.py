"""Programs with other people's command lines: what cluster software calls for a SCSI device.

`flockpr-sg-persist`, `flockpr-sg-turs` and `flockpr-mpathpersist` take the options of
sg_persist and sg_turs (sg3_utils) and of mpathpersist (multipath-tools), print what they print
and leave with their exit codes. The device is a logical unit of a root; no kernel is asked.
"""
