//! The recipe for PostgREST, asked as PostgREST 17 asks: its statements, prepared, in their order.

use anyhow::{ensure, Context, Result};
use postgres::error::DbError;
use postgres::Client;
use testbed::Server;

use super::ask::{ensure_code, Ask, AGE};
use super::documents::recipe;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("postgrest_requests_are_refused_with_a_status", with_a_status),
    ("postgrest_requests_are_answered_with_headers", with_headers),
    ("postgrest_keys_cannot_be_chosen_by_clients", keys),
];

/// How many requests pass in these tests.
pub const QUOTA: i64 = 3;

/// A server with the recipe in it, up to the block of that name.
pub fn prepared(bed: &Bed, last: &str) -> Result<Server> {
    let server = bed.private().start()?;
    let mut admin = Database::new(&server, "api")?.connect()?;
    let recipe = recipe("postgrest")?;
    for block in ["setup", "address", "status", "grants", "headers"] {
        admin.batch_execute(recipe.block(block)?)?;
        if block == last {
            break;
        }
    }
    // Nothing comes back during the test.
    admin.batch_execute(&format!(
        "UPDATE rl_rules SET quota = {QUOTA}, burst = {QUOTA}, period = '{AGE}'"
    ))?;
    Ok(server)
}

struct Request<'a> {
    method: &'a str,
    headers: &'a str,
    claims: &'a str,
}

const GET: Request<'_> = Request {
    method: "GET",
    headers: r#"{"accept":"*/*","host":"localhost:3000","x-forwarded-for":"203.0.113.7"}"#,
    claims: r#"{"role":"web_anon"}"#,
};

const POST: Request<'_> = Request { method: "POST", ..GET };

/// Sends what PostgREST sends for a request to `/todos`; returns the headers that the answer is to have.
fn send(pool: &mut Client, request: &Request<'_>) -> Result<Result<Option<String>, DbError>> {
    let result = transaction(pool, request);
    let end = if result.is_ok() { "COMMIT" } else { "ABORT" };
    pool.execute(end, &[])?;
    match result {
        Ok(headers) => Ok(Ok(headers)),
        Err(error) => Ok(Err(error.as_db_error().cloned().context("no answer")?)),
    }
}

fn transaction(
    pool: &mut Client,
    request: &Request<'_>,
) -> Result<Option<String>, postgres::Error> {
    let mode = if request.method == "GET" { "READ ONLY" } else { "READ WRITE" };
    pool.execute(&format!("BEGIN ISOLATION LEVEL READ COMMITTED {mode}"), &[])?;
    pool.execute(
        "select set_config('search_path', $1, true), set_config('role', $2, true), \
         set_config('request.jwt.claims', $3, true), set_config('request.method', $4, true), \
         set_config('request.path', $5, true), set_config('request.headers', $6, true), \
         set_config('request.cookies', $7, true)",
        &[
            &r#""api", "public""#,
            &"web_anon",
            &request.claims,
            &request.method,
            &"/todos",
            &request.headers,
            &"{}",
        ],
    )?;
    pool.execute(r#"select "request"."admit"()"#, &[])?;
    let row = match request.method {
        "GET" => pool.query_one(GET_TODOS, &[])?,
        _ => pool.query_one(POST_TODO, &[])?,
    };
    row.try_get("response_headers")
}

const GET_TODOS: &str = r#"WITH pgrst_source AS ( SELECT "api"."todos".* FROM "api"."todos"   )  SELECT null::bigint AS total_result_set, pg_catalog.count(_postgrest_t) AS page_total, coalesce(json_agg(_postgrest_t), '[]') AS body, nullif(current_setting('response.headers', true), '') AS response_headers, nullif(current_setting('response.status', true), '') AS response_status, '' AS response_inserted FROM ( SELECT * FROM pgrst_source ) _postgrest_t"#;

/// With the body in the statement, which PostgREST sends as a parameter of type json.
const POST_TODO: &str = r#"WITH pgrst_source AS (INSERT INTO "api"."todos"("task") SELECT "pgrst_body"."task" FROM (SELECT '{"task":"x"}'::json AS json_data) pgrst_payload, LATERAL (SELECT "task" FROM json_to_record(pgrst_payload.json_data) AS _("task" text) ) pgrst_body  RETURNING 1) SELECT '' AS total_result_set, pg_catalog.count(_postgrest_t) AS page_total, array[]::text[] AS header, ''::text AS body, nullif(current_setting('response.headers', true), '') AS response_headers, nullif(current_setting('response.status', true), '') AS response_status, '' AS response_inserted FROM (SELECT * FROM pgrst_source) _postgrest_t"#;

fn with_a_status(bed: &Bed) -> Result<()> {
    let server = prepared(bed, "grants")?;
    let mut pool = server.connect_to("api", "authenticator")?;
    for request in [&GET, &POST, &GET] {
        ensure!(send(&mut pool, request)?.is_ok(), "{} was refused", request.method);
    }
    for request in [&GET, &POST] {
        let refusal = send(&mut pool, request)?.err().context("more than the quota passed")?;
        ensure_code(&refusal, "PT429")?;
        // The message becomes the reason phrase of the answer's status line.
        let message = refusal.message();
        ensure!(message.is_ascii() && message.len() < 40, "{message}");
        ensure!(refusal.detail().is_some() && !message.contains("203.0.113.7"));
    }
    let mut admin = server.connect_to("api", "postgres")?;
    ensure!(admin.ask::<i64>("SELECT count(*) FROM api.todos")? == 1, "not what passed");
    Ok(())
}

fn with_headers(bed: &Bed) -> Result<()> {
    let server = prepared(bed, "headers")?;
    let mut pool = server.connect_to("api", "authenticator")?;
    let mut admin = server.connect_to("api", "postgres")?;
    // PostgREST takes an array of objects of one string each.
    let ours = |admin: &mut Client, headers: &str| -> Result<String> {
        admin.ask(&format!(
            "SELECT string_agg(name || ': ' || value, ', ' ORDER BY name)
               FROM json_array_elements('{headers}') AS one (header), json_each_text(header) AS h (name, value)
              WHERE name IN ('X-RateLimit-Limit', 'X-RateLimit-Remaining', 'Retry-After')"
        ))
    };
    for left in (0..QUOTA).rev() {
        let request = if left == 1 { &POST } else { &GET };
        let headers = send(&mut pool, request)?.ok().flatten().context("no headers")?;
        let expected = format!("X-RateLimit-Limit: {QUOTA}, X-RateLimit-Remaining: {left}");
        let found = ours(&mut admin, &headers)?;
        ensure!(found == expected, "{found}");
    }
    for request in [&GET, &POST] {
        let refusal = send(&mut pool, request)?.err().context("more than the quota passed")?;
        ensure_code(&refusal, "PGRST")?;
        let (message, detail) = (refusal.message(), refusal.detail().context("no detail")?);
        ensure!(!message.contains('\'') && !detail.contains('\''), "{message} {detail}");
        let read: String = admin.ask(&format!(
            "SELECT concat_ws(', ', m ->> 'code', m ->> 'message', m ->> 'details', d ->> 'status', d #>> '{{headers,X-RateLimit-Remaining}}')
               FROM (SELECT '{message}'::json AS m, '{detail}'::json AS d) AS error"
        ))?;
        ensure!(read == "PT429, Too Many Requests, The limit is reached: rate., 429, 0", "{read}");
        // All values are strings, and the wait is in whole seconds.
        let wrong: i64 = admin.ask(&format!(
            "SELECT count(*) FROM json_each('{detail}'::json -> 'headers') AS h
              WHERE json_typeof(value) <> 'string' OR key = 'Retry-After' AND value #>> '{{}}' !~ '^[1-9][0-9]*$'"
        ))?;
        let waits = format!("SELECT '{detail}'::jsonb -> 'headers' ? 'Retry-After'");
        ensure!(wrong == 0 && admin.ask::<bool>(&waits)?, "{detail}");
    }
    // The next request of the pool begins without headers of the last one.
    let other = Request { claims: r#"{"role":"web_anon","sub":"ann"}"#, ..GET };
    let headers = send(&mut pool, &other)?.ok().flatten().context("no headers")?;
    let count = format!("SELECT count(*) FROM json_array_elements('{headers}') AS h WHERE h ->> 'RateLimit' IS NOT NULL");
    ensure!(admin.ask::<i64>(&count)? == 1, "{headers}");
    // Switched off, it passes, and there is nothing that would remain.
    admin.batch_execute("UPDATE rl_limiters SET mode = 'off'")?;
    let headers = send(&mut pool, &GET)?.ok().flatten().context("it is refused")?;
    ensure!(!headers.contains("Remaining"), "{headers}");
    Ok(())
}

fn keys(bed: &Bed) -> Result<()> {
    let server = prepared(bed, "grants")?;
    let mut pool = server.connect_to("api", "authenticator")?;
    let mut admin = server.connect_to("api", "postgres")?;
    let mut taken = |headers: &str, claims: &str, key: &str| -> Result<()> {
        let before = admin.left("requests", key)?;
        let request = Request { headers, claims, ..GET };
        ensure!(send(&mut pool, &request)?.is_ok(), "{key} was refused");
        let after = admin.left("requests", key)?;
        ensure!(after == before - 1, "{headers} {claims} did not count for {key}");
        Ok(())
    };
    let (anonymous, ann) = (GET.claims, r#"{"role":"web_anon","sub":"ann"}"#);
    taken(GET.headers, ann, "user ann")?;
    for (forwarded, key) in [
        // Only what the proxy added counts, whatever the client wrote before.
        ("198.51.100.1, 203.0.113.7", "address 203.0.113.7"),
        ("user ann, 203.0.113.7", "address 203.0.113.7"),
        ("::ffff:203.0.113.7", "address 203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "address 2001:db8:1:2::"),
        ("2001:db8:1:2::9", "address 2001:db8:1:2::"),
        ("203.0.113.7, nonsense", "address unknown"),
        ("", "address unknown"),
    ] {
        let headers = format!(r#"{{"x-forwarded-for":"{forwarded}"}}"#);
        taken(&headers, anonymous, key)?;
    }
    taken("{}", anonymous, "address unknown")?;

    // The role of requests decides nothing by itself.
    pool.batch_execute("SET ROLE web_anon")?;
    for call in ["rl_try_acquire('requests', 'user ann')", "rl_reset('requests', 'user ann')"] {
        ensure_code(&pool.refused(&format!("SELECT {call}"))?, "42501")?;
    }
    ensure_code(&pool.refused("SELECT request.key()")?, "42501")
}
