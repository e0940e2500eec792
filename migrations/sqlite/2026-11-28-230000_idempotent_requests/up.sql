CREATE TABLE idempotent_requests (
    key_hash TEXT NOT NULL PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    status INTEGER,
    body TEXT,
    etag TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX idempotent_requests_age ON idempotent_requests (created_at);
