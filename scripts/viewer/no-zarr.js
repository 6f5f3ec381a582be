// Stands in for zarrita: the reports hold no Zarr.
export {};
