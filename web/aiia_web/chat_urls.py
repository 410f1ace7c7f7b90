"""Addresses of what can be done with chats and messages."""

from django.urls import path

from aiia_web import branches, chat_menu, gauge, search

urlpatterns = [
    path("search/", search.show, name="search"),
    path("chats/bulk/", chat_menu.bulk, name="chats-bulk"),
    path("chats/<uuid:chat_id>/draft/", chat_menu.draft, name="chat-draft"),
    path("chats/<uuid:chat_id>/edit/", chat_menu.edit, name="chat-edit"),
    path("chats/<uuid:chat_id>/pin/", chat_menu.pin, name="chat-pin"),
    path("chats/<uuid:chat_id>/archive/", chat_menu.archive, name="chat-archive"),
    path("chats/<uuid:chat_id>/restore/", chat_menu.restore, name="chat-restore"),
    path("chats/<uuid:chat_id>/duplicate/", chat_menu.duplicate, name="chat-duplicate"),
    path("chats/<uuid:chat_id>/stop/", chat_menu.stop, name="chat-stop"),
    path("messages/<uuid:message_id>/edit/", branches.edit, name="message-edit"),
    path("messages/<uuid:message_id>/again/", branches.again, name="message-again"),
    path("messages/<uuid:message_id>/choose/", branches.choose, name="message-choose"),
    path("messages/<uuid:message_id>/fork/", branches.fork, name="message-fork"),
    path("messages/<uuid:message_id>/delete/", branches.delete, name="message-delete"),
    path("messages/<uuid:message_id>/restore/", branches.restore, name="message-restore"),
    path("messages/<uuid:message_id>/gauge/", gauge.show, name="message-gauge"),
    path("messages/<uuid:message_id>/sent/", branches.sent, name="message-sent"),
]
