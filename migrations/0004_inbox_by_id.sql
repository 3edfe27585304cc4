-- Nobody reads the inbox in its order while updates are taken, and each of them paid for the index.
DROP INDEX sdb_inbox_position;
