{% load static %}// Shows a page of our own when the server cannot be reached. Nothing else is kept or answered here.
const kept = "offline-{{ version }}";
const page = "{% url "offline" %}";
addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(caches.open(kept).then((cache) => cache.addAll([page, "{% static "dist/app.css" %}"])));
});
addEventListener("activate", (event) => {
  const old = (names) => names.filter((name) => name.startsWith("offline-") && name !== kept);
  event.waitUntil(caches.keys().then((names) => Promise.all(old(names).map((name) => caches.delete(name)))));
});
addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.mode === "navigate" && request.method === "GET") {
    event.respondWith(fetch(request).catch(() => caches.match(page)));
  } else if (request.destination === "style") {
    event.respondWith(fetch(request).catch(async () => (await caches.match(request)) ?? Response.error()));
  }
});
