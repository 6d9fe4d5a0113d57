drop trigger if exists asm_sessions_delete_checkpoints;

drop table if exists asm_checkpoint_writes;

drop table if exists asm_checkpoint_blobs;

drop table if exists asm_checkpoints;
