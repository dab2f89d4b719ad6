//! The SQL of the extension, in the order in which it is installed.

use pgrx::extension_sql_file;

extension_sql_file!("../sql/types.sql", name = "types", bootstrap);
extension_sql_file!("../sql/definitions.sql", name = "definitions");
extension_sql_file!("../sql/overrides.sql", name = "overrides", requires = ["definitions"]);
extension_sql_file!("../sql/durable.sql", name = "durable", requires = ["overrides"]);
extension_sql_file!("../sql/calls.sql", name = "calls", requires = ["durable"]);
extension_sql_file!("../sql/slots.sql", name = "slots", requires = ["calls"]);
extension_sql_file!("../sql/bans.sql", name = "bans", requires = ["slots"]);
extension_sql_file!("../sql/stats.sql", name = "stats", requires = ["bans"]);
extension_sql_file!("../sql/storage.sql", name = "storage", requires = ["stats"]);
extension_sql_file!("../sql/limiters.sql", name = "limiters", requires = ["storage"]);
extension_sql_file!("../sql/documents.sql", name = "documents", requires = ["limiters"]);
extension_sql_file!("../sql/privileges.sql", name = "privileges", finalize);
