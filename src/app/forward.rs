//! Handlers of an application that wraps another one, which only call the wrapped application in the field `inner`.

/// Defines the listed handlers of [`App`](super::App).
macro_rules! forward {
    ($($handler:ident),+ $(,)?) => { $( forward!(@ $handler); )+ };
    (@ history) => {
        fn history(&self) -> u32 {
            self.inner.history()
        }
    };
    (@ history_of) => {
        fn history_of(&mut self, room: &str) -> Option<History> {
            self.inner.history_of(room)
        }
    };
    (@ rates) => {
        fn rates(&self) -> (u32, u32) {
            self.inner.rates()
        }
    };
    (@ on_request) => {
        fn on_request(&mut self, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
            self.inner.on_request(context, request)
        }
    };
    (@ on_start) => {
        fn on_start(&mut self, context: &mut Context<'_>) {
            self.inner.on_start(context);
        }
    };
    (@ on_open) => {
        fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
            self.inner.on_open(context, client, opening);
        }
    };
    (@ on_message) => {
        fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
            self.inner.on_message(context, client, message);
        }
    };
    (@ on_close) => {
        fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
            self.inner.on_close(context, client);
        }
    };
    (@ on_added) => {
        fn on_added(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
            self.inner.on_added(context, client, room);
        }
    };
    (@ on_removed) => {
        fn on_removed(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
            self.inner.on_removed(context, client, room);
        }
    };
    (@ on_publish) => {
        fn on_publish(&mut self, room: &str, sender: Option<ClientId>, kind: Kind, payload: &[u8]) -> bool {
            self.inner.on_publish(room, sender, kind, payload)
        }
    };
    (@ on_publish_at) => {
        fn on_publish_at(
            &mut self,
            context: &mut Context<'_>,
            room: &str,
            sender: Option<ClientId>,
            message: Incoming<'_>,
        ) -> bool {
            self.inner.on_publish_at(context, room, sender, message)
        }
    };
    (@ on_api_message) => {
        fn on_api_message<'a>(
            &mut self,
            author: Option<&str>,
            message: Incoming<'a>,
        ) -> Result<Cow<'a, [u8]>, Refusal> {
            self.inner.on_api_message(author, message)
        }
    };
    (@ on_api_user_message) => {
        fn on_api_user_message<'a>(
            &mut self,
            author: Option<&str>,
            message: Incoming<'a>,
        ) -> Result<Cow<'a, [u8]>, Refusal> {
            self.inner.on_api_user_message(author, message)
        }
    };
    (@ on_api_delivery) => {
        fn on_api_delivery(
            &mut self,
            context: &mut Context<'_>,
            clients: &[ClientId],
            author: Option<&str>,
            message: Incoming<'_>,
        ) {
            self.inner.on_api_delivery(context, clients, author, message);
        }
    };
    (@ watches_occupancy) => {
        fn watches_occupancy(&self) -> bool {
            self.inner.watches_occupancy()
        }
    };
    (@ on_occupied) => {
        fn on_occupied(&mut self, context: &mut Context<'_>, room: &str) {
            self.inner.on_occupied(context, room);
        }
    };
    (@ on_vacated) => {
        fn on_vacated(&mut self, context: &mut Context<'_>, room: &str) {
            self.inner.on_vacated(context, room);
        }
    };
    (@ watches_members) => {
        fn watches_members(&self) -> bool {
            self.inner.watches_members()
        }
    };
    (@ on_joined) => {
        fn on_joined(&mut self, context: &mut Context<'_>, room: &str, client: ClientId, user: Option<&str>) {
            self.inner.on_joined(context, room, client, user);
        }
    };
    (@ on_left) => {
        fn on_left(&mut self, context: &mut Context<'_>, room: &str, client: ClientId) {
            self.inner.on_left(context, room, client);
        }
    };
    (@ on_resumed) => {
        fn on_resumed(&mut self, context: &mut Context<'_>, client: ClientId, resumed: ResumedRoom<'_>) {
            self.inner.on_resumed(context, client, resumed);
        }
    };
    (@ on_lag) => {
        fn on_lag(&mut self, context: &mut Context<'_>, client: ClientId, missed: u64) {
            self.inner.on_lag(context, client, missed);
        }
    };
    (@ on_ask) => {
        fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
            self.inner.on_ask(context, note);
        }
    };
    (@ on_tell) => {
        fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
            self.inner.on_tell(context, note);
        }
    };
    (@ describe_member) => {
        fn describe_member(&mut self, room: &str, client: ClientId) -> String {
            self.inner.describe_member(room, client)
        }
    };
    (@ on_members) => {
        fn on_members(&mut self, context: &mut Context<'_>, members: Members) {
            self.inner.on_members(context, members);
        }
    };
    (@ on_user) => {
        fn on_user(&mut self, context: &mut Context<'_>, user: User) {
            self.inner.on_user(context, user);
        }
    };
    (@ on_timer) => {
        fn on_timer(&mut self, context: &mut Context<'_>, token: u64) {
            self.inner.on_timer(context, token);
        }
    };
}

/// A handler that a wrapper forgets would silently be the default one.
#[test]
fn wrappers_have_all_handlers() {
    let (_, app) = include_str!("../app.rs").split_once("pub trait App {").expect("the trait");
    let (app, _) = app.split_once("\n}\n").expect("the end of the trait");
    let handlers: Vec<&str> =
        app.lines().filter_map(|line| line.strip_prefix("    fn ")?.split(['(', '<']).next()).collect();
    assert!(handlers.len() > 20, "{handlers:?}");
    for (wrapper, source) in [("api", include_str!("api.rs")), ("hooks", include_str!("hooks.rs"))] {
        for handler in &handlers {
            let ways = [format!("fn {handler}("), format!("fn {handler}<"), format!("    {handler},\n")];
            assert!(
                ways.iter().any(|way| source.contains(&format!("\n    {way}"))),
                "{wrapper} has no {handler}"
            );
        }
    }
}
