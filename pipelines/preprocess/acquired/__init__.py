"""The series as acquired: slices in time, echoes, and volumes on any grid."""
