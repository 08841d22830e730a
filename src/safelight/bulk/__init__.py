"""Any number of prompts: drawn shard by shard, resumed where it stopped, on one machine or many."""
