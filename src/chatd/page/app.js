// The chat's page. It asks the daemon on this machine and nothing else; text of others is only ever set as text.
import { calls } from './call.js'
import { drawFiles, forget, handIn } from './files.js'

const $ = id => document.getElementById(id)
const el = (tag, props = {}, ...children) => {
  const { dataset, ...plain } = props
  const node = Object.assign(document.createElement(tag), plain)
  Object.assign(node.dataset, dataset ?? {})
  node.append(...children.filter(c => c !== null && c !== undefined))
  return node
}

// The token comes behind the # of the address that `aegisray chat page` prints, which no server sees.
if (location.hash.length > 1) {
  sessionStorage.setItem('token', location.hash.slice(1))
  history.replaceState(null, '', location.pathname)
}

class Refused extends Error {}

async function ask(request) {
  const response = await fetch('api', {
    method: 'POST',
    headers: { authorization: 'Bearer ' + (sessionStorage.getItem('token') ?? ''), 'content-type': 'application/json' },
    body: JSON.stringify(request),
  })
  if (response.status === 401) throw new Refused('Open the address that `aegisray chat page` prints.')
  if (!response.ok) throw new Error('the daemon answers ' + response.status)
  const answer = await response.json()
  if (answer.is === 'error') throw new Refused(answer.message)
  return answer
}

const state = { platforms: [], platform: null, channel: null, entries: new Map(), members: [], last: 0, more: false, me: null, addresses: [], picked: [], answering: null }

const here = () => state.platforms.find(p => p.id === state.platform)
const channelHere = () => here()?.channels.find(c => c.id === state.channel)
const mayModerate = () => ['moderator', 'powernode', 'founder'].includes(here()?.role)
const mayRule = () => ['powernode', 'founder'].includes(here()?.role)

// What has happened stays to be read until somebody goes elsewhere; what failed, until something works.
let stays = false
function notice(text, news = false) {
  stays = news
  $('notice').textContent = text
  $('notice').hidden = !text
}

// What somebody asked for here, with its failure said where it was asked for.
async function attempt(work) {
  try {
    const result = await work()
    if (!stays) notice('')
    return result
  } catch (error) {
    notice(error.message)
  }
}

// ---- dialogs

function dialog(title, body, buttons) {
  $('dialog-title').textContent = title
  $('dialog-body').replaceChildren(...body)
  $('dialog-error').textContent = ''
  const close = el('button', { type: 'button', textContent: 'Close', onclick: () => $('dialog').close() })
  const all = buttons.map(([text, work, kind]) => el('button', {
    type: 'button', textContent: text, className: kind ?? 'main',
    onclick: async event => {
      event.target.disabled = true
      try {
        if (await work() !== false) $('dialog').close()
      } catch (error) {
        $('dialog-error').textContent = error.message
      }
      event.target.disabled = false
    },
  }))
  $('dialog-buttons').replaceChildren(...all, close)
  if (!$('dialog').open) $('dialog').showModal()
  $('dialog-body').querySelector('input, textarea, select')?.focus()
}
$('dialog').querySelector('form').addEventListener('submit', event => {
  event.preventDefault()
  $('dialog-buttons').querySelector('button.main')?.click()
})

const field = (label, props = {}) => {
  const input = el(props.rows ? 'textarea' : 'input', props)
  return [el('label', {}, label, input), input]
}

const check = label => {
  const input = el('input', { type: 'checkbox', className: 'check' })
  return [el('label', {}, input, ' ' + label), input]
}

function welcome() {
  const [one, password] = field('Master password, at least 8 characters', { type: 'password', autocomplete: 'new-password' })
  const [two, again] = field('The same again', { type: 'password', autocomplete: 'new-password' })
  const [three, words] = field('To bring back an identity on this device: its 24 words', { rows: 3 })
  dialog('Make your identity', [el('p', { textContent: 'It is made here and stays here, sealed with your password.' }), one, two, three], [['Go on', async () => {
    if (password.value !== again.value) throw new Error('The two passwords are not the same.')
    const answer = await ask({ do: 'identity_new', password: password.value, words: words.value.trim() || null })
    await refresh()
    if (words.value.trim()) return
    showWords(answer.words)
    return false
  }]])
}

function showWords(words) {
  const list = el('ol', { className: 'words' })
  words.split(' ').forEach((word, n) => list.append(el('li', { textContent: `${n + 1} ${word}` })))
  dialog('Write these 24 words down', [
    el('p', { textContent: 'With them alone your identity can be brought back when this device or the password is lost. Nothing else keeps them.' }), list,
  ], [['I have written them down', () => true]])
}

function unlock() {
  const [one, password] = field('Master password', { type: 'password', autocomplete: 'current-password' })
  dialog('Unlock your identity', [one], [['Unlock', async () => {
    await ask({ do: 'unlock', password: password.value })
    await refresh()
  }]])
}

async function joinOrFound() {
  const { offers } = await ask({ do: 'discover' })
  const [nickLabel, nick] = field('What you are called there', { maxLength: 32, autocomplete: 'nickname' })
  const [nameLabel, name] = field('Name or id of a platform', { autocomplete: 'off' })
  const open = offers.filter(o => !o.joined && !o.banned)
  const list = el('ul')
  for (const offer of open) {
    const about = offer.by ? `${offer.by} invites you` : `${offer.members} members`
    list.append(el('li', {}, el('button', {
      type: 'button', textContent: `${offer.name || offer.id.slice(0, 8)} (${about})`, onclick: () => { name.value = offer.id },
    })))
  }
  const [secretLabel, secret] = check('If you found one: private, sealed end to end for who is invited')
  const intro = el('p', { textContent: open.length ? 'Your neighbours offer:' : 'No neighbour offers a platform that you are not in.' })
  dialog('Join or found a platform', [intro, list, nameLabel, nickLabel, secretLabel], [
    ['Join', async () => { await ask({ do: 'join', platform: name.value.trim(), nick: nick.value.trim() }); await refresh() }],
    ['Found a new one of this name', async () => { await ask({ do: 'found', name: name.value.trim(), nick: nick.value.trim(), private: secret.checked }); await refresh() }, ''],
  ])
}

async function showPeers() {
  const { peers, relays, known } = await ask({ do: 'peers' })
  const table = el('table', {}, el('thead', {}, el('tr', {}, ...['Peer', 'Kind', 'New from it', 'Still to come'].map(t => el('th', { scope: 'col', textContent: t })))))
  const body = el('tbody')
  for (const p of peers) body.append(el('tr', {}, ...[p.name, p.relay ? 'relay' : 'node', p.received, p.pending].map(t => el('td', { textContent: t }))))
  table.append(body)
  const list = el('ul')
  for (const url of relays) {
    const there = peers.some(p => p.name === url && p.connected)
    list.append(el('li', { className: 'row' }, `${url} (${there ? 'connected' : 'not reached'})`, el('button', {
      type: 'button', textContent: 'Remove', onclick: async () => { await ask({ do: 'remove_relay', url }); showPeers() },
    })))
  }
  for (const url of known) list.append(el('li', { className: 'row', textContent: `${url} (others know it)` }))
  const [label, url] = field('URL of a relay', { placeholder: 'wss://relay.example.org', autocomplete: 'off' })
  const override = el('details', { open: relays.length === 0 }, el('summary', { textContent: 'Manual Override' }),
    el('p', { textContent: 'A relay keeps what is said for who is away, for up to 7 days. It sees who writes when, and on a public platform what.' }), label)
  dialog(`Peers (${peers.length})`, [table, el('h3', { textContent: 'Relays' }), list, override], [['Add the relay', async () => {
    await ask({ do: 'add_relay', url: url.value.trim() })
    await showPeers()
    return false
  }]])
}

async function showAudit() {
  const { acts } = await ask({ do: 'audit', platform: state.platform })
  const table = el('table', {}, el('thead', {}, el('tr', {}, ...['When', 'Who', 'What', 'Whom', 'Why'].map(t => el('th', { scope: 'col', textContent: t })))))
  const body = el('tbody')
  for (const a of acts.reverse()) {
    const cells = [when(a.time_ms, true), a.nick, a.good ? a.act : `${a.act} (does not count)`, a.target, a.reason]
    body.append(el('tr', { className: a.good ? '' : 'void' }, ...cells.map(t => el('td', { textContent: t }))))
  }
  table.append(body)
  dialog('What moderators did', [table], [])
}

function confirmAct(title, text, act, more = []) {
  const [label, reason] = field('Reason, for the log', { maxLength: 200 })
  dialog(title, [el('p', { textContent: text }), ...more, label], [['Do it', () => ask(act(reason.value)), 'main danger']])
}

function aboutPerson(m) {
  const platform = state.platform
  const who = m.id
  const buttons = []
  const add = (text, request) => buttons.push([text, () => ask(request), ''])
  if (m.own) {
    const [label, nick] = field('What you are called here', { value: m.nick, maxLength: 32 })
    return dialog('You', [el('p', { textContent: `${m.role}. Key ${m.id.slice(0, 16)}…` }), label], [['Change', () => ask({ do: 'nick', platform, nick: nick.value.trim() })]])
  }
  if (!m.banned && !here().private) {
    buttons.push(['Talk alone', async () => {
      const { id } = await ask({ do: 'direct', platform, who })
      await refresh()
      const place = state.platforms.find(p => p.id === id)
      if (place?.channels.length) await open(id, place.channels[0].id)
    }])
    for (const p of state.platforms.filter(p => p.private && !p.direct)) add(`Invite to ${p.name}`, { do: 'invite', platform: p.id, who, from: platform, history: false })
  }
  if (mayRule() && !m.banned) {
    if (m.role === 'member') add('Make moderator', { do: 'grant', platform, who, role: 'moderator' })
    if (['member', 'moderator'].includes(m.role)) add('Make powernode', { do: 'grant', platform, who, role: 'powernode' })
    if (['moderator', 'powernode'].includes(m.role)) add('Take the role', { do: 'revoke', platform, who })
  }
  if (mayModerate() && m.banned) add('Unban', { do: 'unban', platform, who })
  if (mayModerate() && !m.banned) {
    buttons.push(['Ban …', () => {
      const [box, purge] = check('Delete what they wrote before, too')
      confirmAct(`Ban ${m.nick}`, 'Their own node deletes its copy of this platform, and nobody takes messages of theirs any more. Modified software may keep what it has, and nothing keeps a person from coming back with a new key.',
        reason => ({ do: 'ban', platform, who, reason, purge: purge.checked }), [box])
      return false
    }, 'danger'])
    buttons.push(['Shadow ban …', () => {
      confirmAct(`Shadow ban ${m.nick}`, 'They see their messages, nobody else does. It is no secret to who looks with a second key.', reason => ({ do: 'shadow_ban', platform, who, reason }))
      return false
    }, 'danger'])
    add('End a shadow ban', { do: 'unshadow', platform, who })
  }
  dialog(m.nick, [el('p', { textContent: `${m.banned ? 'Banned' : m.role}. Key ${m.id.slice(0, 16)}…` })], buttons)
}

// ---- places

function drawPlaces() {
  const list = $('platforms')
  const focused = document.activeElement?.dataset?.channel
  const drawChannel = (p, c, name) => {
    const unread = c.unread ? el('span', { className: 'unread', textContent: c.mentions ? `${c.unread} @` : c.unread }) : null
    unread?.setAttribute('aria-label', `${c.unread} unread${c.mentions ? `, ${c.mentions} to you` : ''}`)
    const button = el('button', { className: 'channel', dataset: { channel: c.id }, onclick: () => { notice(''); open(p.id, c.id) } }, name, unread)
    button.setAttribute('aria-current', String(c.id === state.channel))
    return el('li', {}, button)
  }
  const alone = state.platforms.filter(p => p.direct && p.channels.length)
  const direct = el('ul', {}, ...alone.map(p => drawChannel(p, p.channels[0], p.name)))
  const places = alone.length ? [el('li', {}, el('h3', { textContent: 'You and' }), direct)] : []
  list.replaceChildren(...state.platforms.filter(p => !p.direct).map(p => {
    const channels = el('ul')
    for (const c of p.channels.filter(c => !c.archived || c.id === state.channel)) {
      channels.append(drawChannel(p, c, `# ${c.name}`))
    }
    const head = el('h3', {}, p.private ? `${p.name} (private)` : p.name)
    if (['powernode', 'founder'].includes(p.role)) {
      const make = el('button', { textContent: '+', onclick: () => newChannel(p) })
      make.setAttribute('aria-label', `New channel on ${p.name}`)
      head.append(make)
    }
    return el('li', {}, head, channels)
  }), ...places)
  if (focused) list.querySelector(`[data-channel="${focused}"]`)?.focus()
}

function newChannel(p) {
  const [one, name] = field('Name', { maxLength: 32 })
  const [two, topic] = field('Topic', { maxLength: 200 })
  dialog(`New channel on ${p.name}`, [one, two], [['Make it', () => ask({ do: 'channel', platform: p.id, name: name.value.trim(), topic: topic.value, rename: null, archived: null })]])
}

function drawTitle() {
  const [p, c] = [here(), channelHere()]
  $('channel').textContent = p?.direct ? p.name : `# ${c?.name ?? ''}`
  const sealed = p?.direct ? 'Sealed for the two of you' : p?.private ? 'Sealed for who takes part' : ''
  $('topic').textContent = [c?.topic, sealed].filter(Boolean).join('. ')
  $('composer').hidden = !!c?.archived
  $('call').hidden = !p?.direct || p.members < 2
}

async function open(platform, channel) {
  Object.assign(state, { platform, channel, entries: new Map(), more: false })
  answer(null)
  pick([])
  close()
  drawPlaces()
  drawTitle()
  $('log').replaceChildren()
  const page = await attempt(() => ask({ do: 'read', platform, channel, before: null, after: null, limit: 50 }))
  if (!page || state.channel !== channel) return
  state.more = page.more
  for (const e of page.messages) put(e)
  drawOlder()
  toEnd()
  markRead()
  drawMembers()
  $('text').focus()
}

async function drawMembers() {
  const platform = state.platform
  const { members } = await ask({ do: 'members', platform })
  if (state.platform !== platform) return
  state.members = members
  $('members').replaceChildren(...members.map(m => el('li', {}, el('button', { onclick: () => aboutPerson(m) },
    el('span', { className: m.banned ? 'banned' : '', textContent: m.nick }),
    el('span', { className: 'role', textContent: [m.own ? 'you' : '', m.banned ? 'banned' : m.role === 'member' ? '' : m.role].filter(Boolean).join(', ') })))))
}

// ---- messages

const when = (ms, date) => new Date(ms).toLocaleString([], date ? { dateStyle: 'short', timeStyle: 'short' } : { hour: '2-digit', minute: '2-digit' })

function sent(e) {
  if (!e.own) return ''
  return e.copies ? `sent to ${e.copies} ${e.copies === 1 ? 'peer' : 'peers'}` : 'queued'
}

function drawEntry(e) {
  const mine = here()?.role && e.own
  const me = state.members.find(m => m.own)?.nick
  const toMe = !e.own && me && e.text.toLowerCase().includes('@' + me.toLowerCase())
  const item = el('li', { id: 'm' + e.id, className: [e.own ? 'mine' : '', toMe ? 'to-me' : ''].join(' ').trim() })
  if (e.reply_to) {
    const target = state.entries.get(e.reply_to)
    const text = target ? `${target.nick}: ${target.state === 'text' ? target.text : 'purged'}` : 'an earlier message'
    item.append(el('p', { className: 'quote', textContent: text }))
  }
  const time = el('time', { className: 'when', textContent: when(e.time_ms), dateTime: new Date(e.time_ms).toISOString(), title: when(e.time_ms, true) })
  item.append(el('p', {}, el('span', { className: 'who', textContent: e.nick }), ' ', time))
  const text = { text: e.text, absent: 'Not here yet', sealed: 'Sealed: its secret is not here', purged: '[Purged by Powernode]' }[e.state]
  item.append(el('p', { className: e.state === 'text' ? 'text' : 'gone', textContent: text }))
  if (e.files.length) item.append(drawFiles(e, { ask, el, attempt }))
  else forget(e.id)
  const marks = [e.edited ? 'edited' : '', e.late ? 'arrived late' : '', e.forked ? 'its device contradicts itself' : '', sent(e)].filter(Boolean)
  if (marks.length) item.append(el('p', { className: 'marks', textContent: marks.join(' · ') }))
  if (e.reactions.length) {
    item.append(el('p', { className: 'reactions' }, ...e.reactions.map(r => {
      const button = el('button', { textContent: `${r.what} ${r.who.length}`, title: r.who.join(', '), onclick: () => react(e, r.what) })
      button.setAttribute('aria-pressed', String(r.own))
      return button
    })))
  }
  if (e.state === 'text') {
    const tool = (text, label, onclick) => {
      const button = el('button', { textContent: text, onclick })
      button.setAttribute('aria-label', `${label} the message of ${e.nick}`)
      return button
    }
    const tools = el('div', { className: 'tools' }, tool('Reply', 'Reply to', () => answer(e)), tool('+1', 'Agree with', () => react(e, '👍')))
    if (mine) tools.append(tool('Edit', 'Edit', () => edit(e)), tool('Retract', 'Retract', () => attempt(() => ask({ do: 'retract', platform: state.platform, message: e.id }))))
    if (!e.own && mayModerate()) tools.append(tool('Purge', 'Purge', () => confirmAct('Purge a message', 'Its bytes are deleted on every node that keeps to the protocol.', reason => ({ do: 'tombstone', platform: state.platform, messages: [e.id], reason }))))
    item.append(tools)
  }
  return item
}

// Puts an entry where it belongs by hybrid time, or takes it away.
function put(e) {
  const before = $('m' + e.id)
  if (e.state === 'hidden') {
    state.entries.delete(e.id)
    before?.remove()
    return
  }
  state.entries.set(e.id, e)
  const item = drawEntry(e)
  item.dataset.order = e.order
  if (before) return before.replaceWith(item)
  let next = null
  for (let at = $('log').lastElementChild; at && at.dataset.order > e.order; at = at.previousElementSibling) next = at
  $('log').insertBefore(item, next)
}

const react = (e, what) => attempt(() => ask({ do: 'react', platform: state.platform, message: e.id, reaction: what }))

function edit(e) {
  const [label, text] = field('Your message', { rows: 4, value: e.text })
  dialog('Edit', [label], [['Save', () => ask({ do: 'edit', platform: state.platform, message: e.id, text: text.value })]])
}

function answer(e) {
  state.answering = e?.id ?? null
  $('answering').hidden = !e
  $('answered').textContent = e ? `Answering ${e.nick}: ${e.text.slice(0, 60)}` : ''
  if (e) $('text').focus()
}

$('answer-nobody').onclick = () => answer(null)

function atEnd() {
  const s = $('scroll')
  return s.scrollHeight - s.scrollTop - s.clientHeight < 60
}
function toEnd() { $('scroll').scrollTop = $('scroll').scrollHeight }

function drawOlder() { $('older').hidden = !state.more }
$('older').onclick = () => attempt(async () => {
  const first = $('log').firstElementChild
  const { platform, channel } = state
  const page = await ask({ do: 'read', platform, channel, before: first.id.slice(1), after: null, limit: 50 })
  if (state.channel !== channel) return
  state.more = page.more
  const height = $('scroll').scrollHeight
  for (const e of page.messages) put(e)
  $('scroll').scrollTop += $('scroll').scrollHeight - height
  drawOlder()
})

async function markRead() {
  const last = $('log').lastElementChild
  if (!last || document.hidden || !atEnd()) return
  const { platform, channel } = state
  await ask({ do: 'mark', platform, channel, message: last.id.slice(1) })
  const c = channelHere()
  if (c && (c.unread || c.mentions)) {
    Object.assign(c, { unread: 0, mentions: 0 })
    drawPlaces()
  }
}
$('scroll').addEventListener('scroll', () => { if (atEnd() && channelHere()?.unread) markRead() })
document.addEventListener('visibilitychange', () => markRead())

$('composer').onsubmit = event => {
  event.preventDefault()
  const text = $('text').value.trim()
  if (!text && !state.picked.length) return
  const { platform, channel, answering } = state
  attempt(async () => {
    const files = []
    for (const file of state.picked) files.push(await handIn(file, ask, text => { $('attached').textContent = text }))
    await ask({ do: 'send', platform, channel, text, reply_to: answering, files })
    $('text').value = ''
    pick([])
    answer(null)
    toEnd()
  })
}
$('text').onkeydown = event => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault()
    $('composer').requestSubmit()
  } else if (event.key === 'Escape') answer(null)
}

function pick(files) {
  state.picked = files
  $('picked').value = ''
  $('attached').hidden = !files.length
  $('attached').textContent = files.length ? `With ${files.map(f => f.name).join(', ')}` : ''
}
$('attach').onclick = () => $('picked').click()
$('picked').onchange = () => { if ($('picked').files.length) pick([...$('picked').files]) }

$('search').onsubmit = event => {
  event.preventDefault()
  const words = $('words').value.trim()
  if (!words || !state.platform) return
  attempt(async () => {
    const { messages } = await ask({ do: 'search', platform: state.platform, words, limit: 50 })
    const list = el('ul')
    for (const e of messages) {
      const name = here().channels.find(c => c.id === e.channel)?.name ?? '?'
      list.append(el('li', {}, el('button', { type: 'button', textContent: `#${name} ${e.nick}, ${when(e.time_ms, true)}: ${e.text.slice(0, 120)}`, onclick: () => jump(e) })))
    }
    dialog(`${messages.length} found`, [list], [])
  })
}

async function jump(e) {
  $('dialog').close()
  if (state.channel !== e.channel) await open(state.platform, e.channel)
  while (!state.entries.has(e.id) && state.more) await $('older').onclick()
  const item = $('m' + e.id)
  item?.scrollIntoView({ block: 'center' })
  item?.querySelector('button')?.focus()
}

// ---- what happens

async function refresh() {
  const status = await ask({ do: 'status' })
  state.me = status.identity
  state.addresses = status.addresses
  $('peers').textContent = `Peers (${status.peers})`
  $('state').textContent = status.pending ? `Catching up: ${status.pending} messages to come` : status.peers ? '' : 'Nobody is reached: what you write is sent later'
  if (!status.identity) return welcome()
  if (!status.unlocked) return unlock()
  state.platforms = (await ask({ do: 'platforms' })).platforms
  drawPlaces()
  const gone = !channelHere()
  if (gone) {
    const first = state.platforms.find(p => p.channels.length)
    if (first) await open(first.id, first.channels[0].id)
    else {
      Object.assign(state, { platform: null, channel: null, entries: new Map() })
      $('log').replaceChildren()
      $('members').replaceChildren()
      $('composer').hidden = true
      $('call').hidden = true
      $('channel').textContent = 'No channel'
      $('topic').textContent = state.platforms.length ? '' : 'Join a platform, or found one.'
    }
  } else drawTitle()
}

const calling = calls({ ask, el, dialog, notice, addresses: () => state.addresses })
for (const [button, video] of [['voice', false], ['video', true]]) {
  $(button).onclick = () => attempt(async () => {
    const other = state.members.find(m => !m.own)
    await calling.start(state.platform, other.id, other.nick, video)
  })
}

function happened(event) {
  if (event.what === 'signal') calling.heard(event).catch(error => notice(error.message))
  else if (event.what === 'message') {
    const e = event.entry
    if (e.channel !== state.channel || e.platform !== state.platform) return
    const oldest = $('log').firstElementChild?.dataset.order
    // What is before the page that is shown comes with that page.
    if (!state.entries.has(e.id) && state.more && oldest && e.order < oldest) return
    const follow = atEnd()
    put(e)
    if (follow) { toEnd(); markRead() }
  } else if (event.what === 'banned') {
    notice(`You are banned from ${state.platforms.find(p => p.id === event.platform)?.name ?? 'a platform'}. What was kept of it here is deleted.`, true)
  } else if (event.what === 'invited') {
    if (!event.direct) notice(`${event.nick} invites you to ${event.name}: see “Join or found a platform”.`, true)
  } else if (event.what === 'platform' && event.platform === state.platform) drawMembers().catch(() => {})
}

async function follow() {
  let failed = false
  for (;;) {
    try {
      const { last, events } = await ask({ do: 'events', after: state.last })
      state.last = last
      for (const event of events) happened(event)
      if (failed) $('state').textContent = ''
      failed = false
      await refresh()
    } catch (error) {
      failed = true
      $('state').textContent = error instanceof Refused ? error.message : 'The daemon does not answer; trying again'
      await new Promise(done => setTimeout(done, 2000))
    }
  }
}

function close() {
  for (const [button, pane] of [['show-places', 'places'], ['show-people', 'people']]) {
    $(pane).classList.remove('open')
    $(button).setAttribute('aria-expanded', 'false')
  }
}
for (const [button, pane] of [['show-places', 'places'], ['show-people', 'people']]) {
  $(button).onclick = () => {
    const open = !$(pane).classList.contains('open')
    close()
    $(pane).classList.toggle('open', open)
    $(button).setAttribute('aria-expanded', String(open))
  }
}
$('peers').onclick = () => attempt(showPeers)
$('join').onclick = () => attempt(joinOrFound)
$('audit').onclick = () => attempt(async () => state.platform && showAudit())

async function start() {
  try {
    // From now on; what was before is read with its channel.
    state.last = (await ask({ do: 'events', after: Number.MAX_SAFE_INTEGER })).last
    await refresh()
  } catch (error) {
    notice(error.message)
  }
  follow()
}
start()
