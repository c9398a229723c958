CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE images (
	id INTEGER NOT NULL, 
	sha256 TEXT NOT NULL, 
	width INTEGER NOT NULL, 
	height INTEGER NOT NULL, 
	format TEXT NOT NULL, 
	bytes BIGINT NOT NULL, pixels TEXT, 
	CONSTRAINT pk_images PRIMARY KEY (id), 
	CONSTRAINT uq_images_sha256 UNIQUE (sha256)
);
CREATE TABLE models (
	id INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	name TEXT NOT NULL, 
	is_default BOOLEAN DEFAULT (false) NOT NULL, 
	card JSON NOT NULL, 
	created_at DOUBLE NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (id), 
	CONSTRAINT uq_models_digest UNIQUE (digest)
);
CREATE INDEX ix_models_name ON models (name);
CREATE TABLE roots (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	path TEXT NOT NULL, 
	path_bytes BLOB NOT NULL, 
	path_hash BLOB NOT NULL, 
	CONSTRAINT pk_roots PRIMARY KEY (id), 
	CONSTRAINT uq_roots_name UNIQUE (name), 
	CONSTRAINT uq_roots_path_hash UNIQUE (path_hash)
);
CREATE TABLE sweeps (
	id INTEGER NOT NULL, 
	next_at DOUBLE NOT NULL, 
	CONSTRAINT pk_sweeps PRIMARY KEY (id)
);
CREATE TABLE workers (
	name TEXT NOT NULL, 
	host TEXT NOT NULL, 
	heartbeat_at DOUBLE NOT NULL, 
	models JSON NOT NULL, 
	roots JSON NOT NULL, 
	runtime TEXT NOT NULL, 
	dropped_messages INTEGER DEFAULT 0 NOT NULL, capability TEXT, 
	CONSTRAINT pk_workers PRIMARY KEY (name)
);
CREATE TABLE captions (
	id INTEGER NOT NULL, 
	image_id INTEGER NOT NULL, 
	source TEXT NOT NULL, 
	model_id INTEGER, 
	options_digest TEXT, 
	text TEXT NOT NULL, 
	confidence DOUBLE, 
	log_probability DOUBLE, 
	weakest_word TEXT, 
	word_log_probabilities JSON, 
	alternatives JSON, 
	runtime TEXT, 
	precision TEXT, 
	software TEXT, 
	created_at DOUBLE NOT NULL, unlike BOOLEAN, file_id INTEGER CONSTRAINT fk_captions_file_id REFERENCES files (id), original TEXT, withdrawn_at DOUBLE, shared_from TEXT, 
	CONSTRAINT pk_captions PRIMARY KEY (id), 
	CONSTRAINT fk_captions_image_id FOREIGN KEY(image_id) REFERENCES images (id), 
	CONSTRAINT fk_captions_model_id FOREIGN KEY(model_id) REFERENCES models (id)
);
CREATE INDEX ix_captions_image_id ON captions (image_id);
CREATE UNIQUE INDEX uq_captions_machine ON captions (image_id, model_id, options_digest) WHERE source = 'machine';
CREATE TABLE files (
	id INTEGER NOT NULL, 
	root_id INTEGER NOT NULL, 
	path TEXT NOT NULL, 
	path_bytes BLOB NOT NULL, 
	path_hash BLOB NOT NULL, 
	size BIGINT NOT NULL, 
	mtime_ns BIGINT NOT NULL, 
	image_id INTEGER, 
	missing_since DOUBLE, ctime_ns BIGINT, mount_id INTEGER CONSTRAINT fk_files_mount_id REFERENCES mounts (id), failed_reason TEXT, failed_detail TEXT, failed_capability_id INTEGER CONSTRAINT fk_files_failed_capability_id REFERENCES capabilities (id), partner BLOB, 
	CONSTRAINT pk_files PRIMARY KEY (id), 
	CONSTRAINT fk_files_image_id FOREIGN KEY(image_id) REFERENCES images (id), 
	CONSTRAINT fk_files_root_id FOREIGN KEY(root_id) REFERENCES roots (id), 
	CONSTRAINT uq_files_root_id_path_hash UNIQUE (root_id, path_hash)
);
CREATE INDEX ix_files_image_id ON files (image_id);
CREATE TABLE jobs (
	id INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	name TEXT NOT NULL, 
	options JSON NOT NULL, 
	options_digest TEXT NOT NULL, 
	model_id INTEGER NOT NULL, 
	force BOOLEAN DEFAULT (false) NOT NULL, 
	priority INTEGER DEFAULT 0 NOT NULL, 
	state TEXT NOT NULL, 
	registered BOOLEAN DEFAULT (false) NOT NULL, 
	known BIGINT DEFAULT 0 NOT NULL, 
	skipped JSON NOT NULL, 
	last_claimed_at DOUBLE DEFAULT 0 NOT NULL, 
	created_at DOUBLE NOT NULL, 
	finished_at DOUBLE, failed_before BIGINT NOT NULL DEFAULT 0, skip_near_duplicates BOOLEAN DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT fk_jobs_model_id FOREIGN KEY(model_id) REFERENCES models (id)
);
CREATE INDEX ix_jobs_key_state ON jobs ("key", state);
CREATE TABLE chunks (
	id INTEGER NOT NULL, 
	job_id INTEGER NOT NULL, 
	root_id INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	fence INTEGER DEFAULT 0 NOT NULL, 
	attempts INTEGER DEFAULT 0 NOT NULL, 
	deferrals INTEGER DEFAULT 0 NOT NULL, 
	worker TEXT, 
	leased_at DOUBLE, 
	lease_until DOUBLE, 
	last_error TEXT, 
	size INTEGER NOT NULL, 
	captioned INTEGER DEFAULT 0 NOT NULL, 
	reused INTEGER DEFAULT 0 NOT NULL, 
	failed INTEGER DEFAULT 0 NOT NULL, 
	model_runs INTEGER DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_chunks PRIMARY KEY (id), 
	CONSTRAINT fk_chunks_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT fk_chunks_root_id FOREIGN KEY(root_id) REFERENCES roots (id), 
	CONSTRAINT uq_chunks_job_id_seq UNIQUE (job_id, seq)
);
CREATE INDEX ix_chunks_open ON chunks (job_id, seq) WHERE state <> 'done';
CREATE INDEX ix_chunks_open_root ON chunks (root_id, job_id) WHERE state <> 'done';
CREATE TABLE items (
	id INTEGER NOT NULL, 
	job_id INTEGER NOT NULL, 
	file_id INTEGER NOT NULL, 
	chunk_id INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	reason TEXT, 
	detail TEXT, 
	attempts INTEGER DEFAULT 0 NOT NULL, 
	finished_at DOUBLE, 
	CONSTRAINT pk_items PRIMARY KEY (id), 
	CONSTRAINT fk_items_chunk_id FOREIGN KEY(chunk_id) REFERENCES chunks (id), 
	CONSTRAINT fk_items_file_id FOREIGN KEY(file_id) REFERENCES files (id), 
	CONSTRAINT fk_items_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT uq_items_job_id_file_id UNIQUE (job_id, file_id)
);
CREATE INDEX ix_items_chunk_id ON items (chunk_id);
CREATE INDEX ix_items_file_id ON items (file_id);
CREATE VIRTUAL TABLE captions_fts USING fts5(text, content='captions', content_rowid='id', tokenize='porter unicode61');
CREATE TRIGGER captions_fts_insert AFTER INSERT ON captions BEGIN INSERT INTO captions_fts(rowid, text) VALUES (new.id, new.text); END;
CREATE TRIGGER captions_fts_delete AFTER DELETE ON captions BEGIN INSERT INTO captions_fts(captions_fts, rowid, text) VALUES ('delete', old.id, old.text); END;
CREATE TRIGGER captions_fts_update AFTER UPDATE OF text ON captions BEGIN INSERT INTO captions_fts(captions_fts, rowid, text) VALUES ('delete', old.id, old.text); INSERT INTO captions_fts(rowid, text) VALUES (new.id, new.text); END;
CREATE TABLE mounts (
	id INTEGER NOT NULL, 
	identity TEXT NOT NULL, 
	CONSTRAINT pk_mounts PRIMARY KEY (id), 
	CONSTRAINT uq_mounts_identity UNIQUE (identity)
);
CREATE TABLE capabilities (
	id INTEGER NOT NULL, 
	text TEXT NOT NULL, 
	CONSTRAINT pk_capabilities PRIMARY KEY (id), 
	CONSTRAINT uq_capabilities_text UNIQUE (text)
);
CREATE TABLE forgotten_jobs (
	id INTEGER NOT NULL, 
	CONSTRAINT pk_forgotten_jobs PRIMARY KEY (id)
);
CREATE INDEX ix_files_failed ON files (id) WHERE failed_reason IS NOT NULL;
CREATE INDEX ix_captions_file_id ON captions (file_id) WHERE file_id IS NOT NULL;
CREATE TABLE changes (
	id INTEGER NOT NULL, 
	verb TEXT NOT NULL, 
	detail JSON NOT NULL, 
	person TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	undone_by INTEGER, 
	CONSTRAINT pk_changes PRIMARY KEY (id), 
	CONSTRAINT fk_changes_undone_by FOREIGN KEY(undone_by) REFERENCES changes (id)
);
CREATE TABLE edits (
	id INTEGER NOT NULL, 
	change_id INTEGER NOT NULL, 
	caption_id INTEGER NOT NULL, 
	file_id INTEGER, 
	"before" TEXT, 
	"after" TEXT, 
	CONSTRAINT pk_edits PRIMARY KEY (id), 
	CONSTRAINT fk_edits_change_id FOREIGN KEY(change_id) REFERENCES changes (id), 
	CONSTRAINT fk_edits_caption_id FOREIGN KEY(caption_id) REFERENCES captions (id), 
	CONSTRAINT fk_edits_file_id FOREIGN KEY(file_id) REFERENCES files (id)
);
CREATE INDEX ix_edits_change_id ON edits (change_id);
CREATE INDEX ix_edits_caption_id ON edits (caption_id);
CREATE INDEX ix_edits_file_id ON edits (file_id);
CREATE TABLE sidecars (
	id INTEGER NOT NULL, 
	path_bytes BLOB NOT NULL, 
	path_hash BLOB NOT NULL, 
	change_id INTEGER NOT NULL, 
	how TEXT NOT NULL, 
	"before" BLOB, 
	replaced TEXT, 
	written TEXT NOT NULL, image_bytes BLOB, mtime_ns BIGINT, 
	CONSTRAINT pk_sidecars PRIMARY KEY (id), 
	CONSTRAINT uq_sidecars_path_hash UNIQUE (path_hash), 
	CONSTRAINT fk_sidecars_change_id FOREIGN KEY(change_id) REFERENCES changes (id)
);
CREATE INDEX ix_sidecars_change_id ON sidecars (change_id);
CREATE TABLE attention (
	caption_id INTEGER NOT NULL, 
	weights BLOB NOT NULL, 
	CONSTRAINT pk_attention PRIMARY KEY (caption_id), 
	CONSTRAINT fk_attention_caption_id FOREIGN KEY(caption_id) REFERENCES captions (id)
);
CREATE TABLE encoders (
	id INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	CONSTRAINT pk_encoders PRIMARY KEY (id), 
	CONSTRAINT uq_encoders_key UNIQUE ("key")
);
CREATE TABLE features (
	image_id INTEGER NOT NULL, 
	encoder_id INTEGER NOT NULL, 
	vector BLOB NOT NULL, 
	thumbnail BLOB NOT NULL, 
	sketch INTEGER NOT NULL, 
	CONSTRAINT pk_features PRIMARY KEY (image_id, encoder_id), 
	CONSTRAINT fk_features_image_id FOREIGN KEY(image_id) REFERENCES images (id), 
	CONSTRAINT fk_features_encoder_id FOREIGN KEY(encoder_id) REFERENCES encoders (id)
);
CREATE INDEX ix_features_sketch ON features (sketch);
CREATE VIEW caption_export AS
SELECT rtrim(r.path, '/') || '/' || f.path AS path,
       r.name AS root,
       CASE WHEN f.partner IS NULL THEN i.sha256 END AS sha256,
       c.text AS caption,
       c.confidence,
       m.name AS model,
       c.source,
       CASE WHEN f.partner IS NULL THEN i.width END AS width,
       CASE WHEN f.partner IS NULL THEN i.height END AS height,
       CASE WHEN c.id IS NOT NULL THEN 'captioned'
            WHEN EXISTS (SELECT 1 FROM captions x WHERE x.image_id = f.image_id AND x.source = 'machine'
                         AND x.withdrawn_at IS NOT NULL) THEN 'rejected'
            WHEN f.failed_reason IS NOT NULL THEN 'failed' ELSE 'pending' END AS status,
       CASE WHEN c.id IS NULL THEN f.failed_reason || coalesce(': ' || f.failed_detail, '') END AS error,
       strftime('%Y-%m-%dT%H:%M:%SZ', c.created_at, 'unixepoch') AS captioned_at,
       c.unlike,
       c.original IS NOT NULL AS edited,
       coalesce(c.file_id = f.id AND (f.image_id IS NULL OR c.image_id <> f.image_id AND
           coalesce(i.pixels <> (SELECT o.pixels FROM images o WHERE o.id = c.image_id), true)), false)
           AS image_changed,
       (SELECT max(t.job_id) FROM items t WHERE t.file_id = f.id) AS job,
       strftime('%Y-%m-%dT%H:%M:%SZ', c.created_at, 'unixepoch') AS written_at
FROM files f
JOIN roots r ON r.id = f.root_id
LEFT JOIN images i ON i.id = f.image_id
LEFT JOIN captions c ON c.id = coalesce((
    SELECT a.id FROM captions a WHERE a.file_id = f.id AND a.withdrawn_at IS NULL
    ORDER BY a.created_at DESC, a.id DESC LIMIT 1), (
    SELECT b.id FROM captions b LEFT JOIN models d ON d.id = b.model_id
    WHERE b.image_id = f.image_id AND b.withdrawn_at IS NULL
    ORDER BY CASE WHEN b.source = 'human' THEN 0 WHEN b.source = 'imported' THEN 1 WHEN d.is_default THEN 2 ELSE 3 END,
             b.created_at DESC, b.id DESC
    LIMIT 1))
LEFT JOIN models m ON m.id = c.model_id
WHERE f.missing_since IS NULL;
CREATE INDEX ix_items_failed ON items (job_id, reason) WHERE reason IS NOT NULL;
CREATE INDEX ix_files_path ON files (root_id, substr(path, 1, 250));
CREATE INDEX ix_captions_confidence_id ON captions (confidence, id);
CREATE INDEX ix_captions_created_at_id ON captions (created_at, id);
CREATE INDEX ix_files_size ON files (size);
INSERT INTO alembic_version VALUES ('0010');
INSERT INTO sweeps VALUES (1, 0.0);
