"""Bytes of the standard: CDBs, parameter lists, payloads, sense data, TransportIDs.

Pure: no input or output. Every parser is total: any bytes give a value or a `Sense`.
"""
