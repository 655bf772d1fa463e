"""What the benches share: processes, contenders, load, checks, reports."""
