//! Splits arithmetic into tokens and computes it: numbers, names, + - * / ^ and parentheses.

use std::collections::HashMap;
use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Number(f64),
    Name(String),
    Operator(char),
    Open,
    Close,
}

#[derive(Debug, PartialEq)]
pub enum ParseError {
    UnexpectedCharacter(char, usize),
    UnexpectedEnd,
    UnexpectedToken(Token),
    UnknownName(String),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ParseError::UnexpectedCharacter(c, at) => write!(f, "unexpected {:?} at {}", c, at),
            ParseError::UnexpectedEnd => write!(f, "the expression ends too early"),
            ParseError::UnexpectedToken(token) => write!(f, "unexpected {:?}", token),
            ParseError::UnknownName(name) => write!(f, "unknown name {}", name),
        }
    }
}

pub fn tokenize(text: &str) -> Result<Vec<Token>, ParseError> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        if c.is_whitespace() {
            at += 1;
        } else if c.is_ascii_digit() || c == '.' {
            let start = at;
            while at < chars.len() && (chars[at].is_ascii_digit() || chars[at] == '.') {
                at += 1;
            }
            let number: String = chars[start..at].iter().collect();
            let value = number
                .parse()
                .map_err(|_| ParseError::UnexpectedCharacter(c, start))?;
            tokens.push(Token::Number(value));
        } else if c.is_alphabetic() {
            let start = at;
            while at < chars.len() && chars[at].is_alphanumeric() {
                at += 1;
            }
            tokens.push(Token::Name(chars[start..at].iter().collect()));
        } else {
            tokens.push(match c {
                '+' | '-' | '*' | '/' | '^' => Token::Operator(c),
                '(' => Token::Open,
                ')' => Token::Close,
                _ => return Err(ParseError::UnexpectedCharacter(c, at)),
            });
            at += 1;
        }
    }
    Ok(tokens)
}

pub struct Evaluator<'a> {
    tokens: &'a [Token],
    at: usize,
    names: &'a HashMap<String, f64>,
}

impl<'a> Evaluator<'a> {
    pub fn new(tokens: &'a [Token], names: &'a HashMap<String, f64>) -> Self {
        Evaluator { tokens, at: 0, names }
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn priority(operator: char) -> u8 {
        match operator {
            '+' | '-' => 1,
            '*' | '/' => 2,
            _ => 3,
        }
    }

    pub fn expression(&mut self, least: u8) -> Result<f64, ParseError> {
        let mut left = self.operand()?;
        while let Some(Token::Operator(operator)) = self.peek().cloned() {
            let priority = Self::priority(operator);
            if priority < least {
                break;
            }
            self.take();
            let next = if operator == '^' { priority } else { priority + 1 };
            let right = self.expression(next)?;
            left = match operator {
                '+' => left + right,
                '-' => left - right,
                '*' => left * right,
                '/' => left / right,
                _ => left.powf(right),
            };
        }
        Ok(left)
    }

    fn operand(&mut self) -> Result<f64, ParseError> {
        match self.take() {
            Some(Token::Number(value)) => Ok(value),
            Some(Token::Name(name)) => match self.names.get(&name) {
                Some(value) => Ok(*value),
                None => Err(ParseError::UnknownName(name)),
            },
            Some(Token::Operator('-')) => Ok(-self.expression(3)?),
            Some(Token::Open) => {
                let value = self.expression(1)?;
                match self.take() {
                    Some(Token::Close) => Ok(value),
                    Some(other) => Err(ParseError::UnexpectedToken(other)),
                    None => Err(ParseError::UnexpectedEnd),
                }
            }
            Some(other) => Err(ParseError::UnexpectedToken(other)),
            None => Err(ParseError::UnexpectedEnd),
        }
    }
}

pub fn evaluate(text: &str, names: &HashMap<String, f64>) -> Result<f64, ParseError> {
    let tokens = tokenize(text)?;
    let mut evaluator = Evaluator::new(&tokens, names);
    evaluator.expression(1)
}
