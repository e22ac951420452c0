"""The bridge between a PACS and the server: a radiograph arrives, a draft report is stored next to it.

It is a process of its own, reads DICOM headers but no pixels, and knows the server only by HTTP.
"""

from terminal.program import begin

begin()
