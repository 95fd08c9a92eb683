"""The campaign of faults: kills, failing disks, clocks, lost workers."""
