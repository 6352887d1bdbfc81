"""What serving needs to know without a process: which checkpoint a name stands for, who gets which, and what is refused."""
